"""Error rates of the embedded checkpoints through the running server, and what confidence is worth.

    python -m tests.bench.accuracy            (about half an hour on two cores)

Writes tests/bench/results/accuracy.json, from which the model cards and the README are made. The
evaluation set is the one in the repository; the other sets are synthesized (espeak-ng, flite).
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import soundfile
from sklearn.metrics import roc_auc_score

from tests.bench.environment import ROOT, describe
from tests.tiny.evalset import ClipMaker, EvalItem, make_held_out_sets, make_sets
from tests.tiny.evaluate import edits, score, units

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
EVAL = ROOT / "tests" / "data" / "eval"


@contextmanager
def server(checkpoint: str, port: int, *flags: str) -> Iterator[str]:
    """A server process on `checkpoint` with further `flags`; its base URL once it is ready."""
    folder = ROOT / "predictor" / "checkpoints" / checkpoint  # or a whole path
    command = [sys.executable, "-m", "predictor", "--model_dir", str(folder)]
    command += ["--http_port", str(port), "--enable_grpc", "false"]
    command += ["--log_level", "warning", *flags]
    process = subprocess.Popen(command, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(3000):  # ten minutes, on a busy machine
            if process.poll() is not None:
                raise SystemExit("the server ended")
            try:
                if requests.get(f"{url}/v2/models/qwen3-asr/ready", timeout=5).ok:
                    break
            except requests.ConnectionError:
                pass
            time.sleep(0.2)
        else:
            raise SystemExit("the server is not ready after ten minutes")
        yield url
    finally:
        process.terminate()
        process.wait()


def infer(url: str, item: EvalItem) -> dict[str, Any]:
    """Text, language and confidence of one item over the V2 protocol, as 32-bit float samples."""
    tensors = [
        {
            "name": "waveform",
            "datatype": "FP32",
            "shape": [1, len(item.audio)],
            "data": item.audio.tolist(),
            "parameters": {"sample_rate": 16_000},
        }
    ]
    body = {"inputs": tensors, "parameters": {"context": item.context} if item.context else {}}
    answer = requests.post(f"{url}/v2/models/qwen3-asr/infer", json=body, timeout=300)
    answer.raise_for_status()
    return {o["name"]: o["data"][0] for o in answer.json()["outputs"]}


def recorded() -> dict[str, list[EvalItem]]:
    """The committed evaluation set by its first tag (short, long)."""
    sets: dict[str, list[EvalItem]] = {}
    for line in (EVAL / "manifest.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        audio, rate = soundfile.read(
            io.BytesIO((EVAL / row["audio"]).read_bytes()), dtype="float32"
        )
        assert rate == 16_000
        item = EvalItem(audio, row["text"], row["language"], voice=row["voice"])
        sets.setdefault(f"evaluation set, {row['tags'][0]}", []).append(item)
    return sets


def synthesized(seed: int, count: int, names: list[str] | None) -> dict[str, list[EvalItem]]:
    """The sets of `make_sets`; only the first two where no others are asked for: much quicker."""
    if names and set(names) <= {"held-out voices", "noise 10 dB"}:
        return make_held_out_sets(ClipMaker(seed), count)
    return make_sets(seed, count)


def measure(url: str, items: list[EvalItem]) -> dict[str, Any]:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda item: infer(url, item), items))
    result: dict[str, Any] = {"clips": len(items)}
    result |= score(items, [(a["language"] or None, a["text"]) for a in answers])
    wrong = [
        edits(units(i.text, i.language), units(a["text"], i.language))[0] > 0
        for i, a in zip(items, answers, strict=True)
    ]
    doubt = [1.0 - a["confidence"] for a in answers]
    if 5 <= sum(wrong) <= len(items) - 5:
        result["confidence AUROC"] = round(float(roc_auc_score(wrong, doubt)), 3)
        result["clips with an error"] = int(np.sum(wrong))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--count", type=int, default=240, help="utterances a synthesized set")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7], help="pooled")
    parser.add_argument("--sets", nargs="+", help="names of sets; all where left out")
    parser.add_argument("--checkpoints", nargs="+", default=["tiny", "tiny-early"])
    args = parser.parse_args()
    environment = describe()
    sets = recorded()
    for seed in args.seeds:
        for name, items in synthesized(seed, args.count, args.sets).items():
            sets.setdefault(name, []).extend(items)
    sets = {name: items for name, items in sets.items() if not args.sets or name in args.sets}
    rows: list[dict[str, Any]] = []
    for checkpoint in args.checkpoints:
        with server(checkpoint, args.port) as url:
            for name, items in sets.items():
                row = {"checkpoint": checkpoint, "set": name, "commit": environment["commit"]}
                if not name.startswith("evaluation set"):
                    row["seeds"] = args.seeds
                row |= measure(url, items)
                rows.append(row)
                print(json.dumps(row), flush=True)
    if RESULTS.exists():  # what was not measured now stays, in its place
        old = json.loads(RESULTS.read_text())
        new = {(row["checkpoint"], row["set"]): row for row in rows}
        before = {"commit": old["environment"]["commit"]}
        kept = [new.pop((r["checkpoint"], r["set"]), before | r) for r in old["rows"]]
        rows = [*kept, *new.values()]
    protocol = "V2 REST, waveform tensor, 4 requests at a time, greedy, float32 on CPU"
    result = {"environment": environment, "protocol": protocol, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
