"""The CPU path for small machines: speed, memory and error rates of each precision.

    python -m tests.bench.edge --output tests/bench/results/edge-cpu.json      (about half an hour)
    python -m tests.bench.edge --shape tiny --repeats 1 --threads 1 --rows engine   (a smoke test)

Precisions take turns, one clip each, so that whatever else the machine does meets them alike;
each has a process of its own. The file is written anew after each row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch

from tests.bench.accuracy import infer, measure, recorded, server
from tests.bench.checkpoint import write_checkpoint
from tests.bench.environment import ROOT, describe
from tests.bench.load import TOKENS_PER_AUDIO_S
from tests.bench.memory import children, tree_peak_mib
from tests.tiny.evalset import EvalItem

# The setting's value -> what the engine calls it.
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
CLIP_S = 10.0
PIECE_S = 30  # what long recordings are cut into
EDGE_CONFIG = ROOT / "manifests" / "overlays" / "edge" / "model-config.json"
LOAD_METRIC = "qwen3_asr_model_load_seconds"
TINY = ROOT / "predictor" / "checkpoints" / "tiny"
ROWS = ("engine", "compile", "server", "accuracy")


class Bench:
    """One run: its rows and the file they go to."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.repeats: int = arguments.repeats
        self.output: Path | None = arguments.output
        self.precisions: list[str] = arguments.precisions.split(",")
        self.result: dict[str, Any] = {
            "environment": describe() | _processor(),
            "shared": "a virtual machine of 2 cores that ran other jobs meanwhile (load_average): "
            "compare minima, which others disturb least, rather than medians",
            "method": "random weights, read from a bf16 checkpoint; end tokens ignored; "
            f"{TOKENS_PER_AUDIO_S} tokens a second of audio; Engine.submit, one clip at a time, "
            "waveform to token ids; one warm-up, then the precisions take turns; "
            "RSS with torch's CUDA build",
            "clip_s": CLIP_S,
            "rows": {},
        }
        if self.output is not None and self.output.exists():  # what is not measured now stays
            self.result["rows"] = json.loads(self.output.read_text())["rows"]

    def row(self, name: str, row: dict[str, Any]) -> None:
        row["commit"] = self.result["environment"]["commit"]
        self.result["rows"][name] = row
        print(f"{name}: {json.dumps(_rounded(row))}", file=sys.stderr, flush=True)
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps(_rounded(self.result), indent=1) + "\n")

    # Rows.

    def engines(self, name: str, folder: Path, num_threads: int) -> None:
        """Every precision on one checkpoint, clip by clip in turn."""
        with ExitStack() as stack:
            ask: dict[str, Callable[[float], dict[str, Any]]] = {}
            loaded, clips = {}, {}
            for precision in self.precisions:
                loaded[precision], ask[precision] = stack.enter_context(
                    worker(folder, precision, num_threads)
                )
                ask[precision](CLIP_S)
                clips[precision] = [ask[precision](CLIP_S)]
            for _ in range(self.repeats - 1):
                for precision, run in ask.items():
                    clips[precision].append(run(CLIP_S))
        for precision in self.precisions:
            threads = f"{num_threads} thread{'s' * (num_threads > 1)}"
            self.row(f"{name} {precision}, {threads}", _row(loaded[precision], clips[precision]))

    def server(self, shape: str, folder: Path, precision: str, port: int) -> None:
        """Memory of the whole server with the edge overlay's settings, all its places taken."""
        noise = np.random.default_rng(0).standard_normal(PIECE_S * 16_000, dtype=np.float32)
        item = EvalItem(0.1 * noise, "", "English")
        at_once = json.loads(EDGE_CONFIG.read_text("utf-8"))["batch_size"]
        flags = ["--config_file", str(EDGE_CONFIG), "--precision", precision]
        flags += ["--max_tokens_per_audio_s", str(TOKENS_PER_AUDIO_S)]
        with server(str(folder), port, *flags) as url, ThreadPoolExecutor(at_once) as pool:
            metrics = requests.get(f"{url}/metrics", timeout=10).text.splitlines()
            [ready_s] = [m.split()[1] for m in metrics if m.startswith(f"{LOAD_METRIC} ")]
            [pid] = children(os.getpid())
            ready_mib = tree_peak_mib(pid)
            list(pool.map(lambda _: infer(url, item), range(at_once)))
            row = {"ready_s": float(ready_s), "rss_peak_ready_mib": ready_mib}
            row |= {"rss_peak_mib": tree_peak_mib(pid), "at_once": at_once, "piece_s": PIECE_S}
        self.row(f"{shape} {precision}, server", row)

    def accuracy(self, precision: str, port: int) -> None:
        """Error rates of the committed evaluation set on the embedded checkpoint."""
        with server("tiny", port, "--precision", precision) as url:
            for name, items in recorded().items():
                self.row(f"tiny {precision}, {name}", measure(url, items))


@contextmanager
def worker(
    folder: Path, precision: str, num_threads: int
) -> Iterator[tuple[dict[str, Any], Callable[[float], dict[str, Any]]]]:
    """How an engine loaded in a new process, and a call that has it transcribe a clip."""
    command = [sys.executable, "-m", "tests.bench.edge_worker"]
    command += [str(folder), PRECISIONS[precision], str(num_threads)]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines, requests_ = process.stdout, process.stdin

    def answer() -> dict[str, Any]:
        line = lines.readline()
        if not line:
            raise RuntimeError(f"the worker for {precision} ended")
        return dict(json.loads(line))

    def ask(duration_s: float) -> dict[str, Any]:
        print(duration_s, file=requests_, flush=True)
        return answer()

    try:
        yield answer(), ask
    finally:
        requests_.close()
        process.wait(60)


def _row(loaded: dict[str, Any], clips: list[dict[str, Any]]) -> dict[str, Any]:
    """One engine's clips in one row; the real-time factor is processing time over audio time."""
    firsts = [clip["first_token_s"] for clip in clips]
    lasts = [clip["last_token_s"] for clip in clips]
    return {
        "rtf": min(lasts) / CLIP_S,
        "rtf_median": statistics.median(lasts) / CLIP_S,
        "first_token_s": min(firsts),
        "first_token_median_s": statistics.median(firsts),
        "last_token_s": min(lasts),
        "last_token_median_s": statistics.median(lasts),
        "cpu_s": min(clip["cpu_s"] for clip in clips),
        "num_tokens": clips[0]["num_tokens"],
        "repeats": len(clips),
        "load_s": loaded["load_s"],
        "rss_imports_mib": loaded["rss_imports_mib"],
        "rss_loaded_mib": loaded["rss_mib"],
        "rss_peak_loading_mib": loaded["rss_peak_mib"],
        "rss_peak_mib": clips[-1]["rss_peak_mib"],
        "load_average": [clip["load_average"] for clip in clips],
    }


def _error(stderr: str) -> str:
    """The line that names the exception."""
    named = [line for line in stderr.splitlines() if "Error" in line and line[0].isalpha()]
    return (named or [stderr])[0][:300]


def _processor() -> dict[str, Any]:
    """What of the processor decides the speed."""
    return {
        "vnni": torch.cpu._is_vnni_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="0.6B", choices=("0.6B", "tiny"))
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--repeats", type=int, default=7, help="clips for each engine")
    parser.add_argument("--rows", default=",".join(ROWS), help="which kinds, comma-separated")
    parser.add_argument("--folder", type=Path, help="a checkpoint written before, of that shape")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="comma-separated")
    parser.add_argument("--port", type=int, default=18_081)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    kinds = arguments.rows.split(",")
    bench = Bench(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or write_checkpoint(Path(scratch) / "model", arguments.shape)
        if "engine" in kinds:
            for num_threads in arguments.threads:
                bench.engines(arguments.shape, folder, num_threads)
            if arguments.shape != "tiny":
                bench.engines("tiny checkpoint", TINY, 1)
        if "compile" in kinds:
            for precision in bench.precisions:
                command = [sys.executable, "-m", "tests.bench.edge_compile"]
                command += [str(folder), PRECISIONS[precision]]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                row = {"error": _error(done.stderr)} if done.returncode else json.loads(done.stdout)
                bench.row(f"{arguments.shape} {precision}, decode step compiled", row)
        if "server" in kinds:
            for precision in bench.precisions:
                bench.server(arguments.shape, folder, precision, arguments.port)
        if "accuracy" in kinds:
            for precision in bench.precisions:
                bench.accuracy(precision, arguments.port)


if __name__ == "__main__":
    main()
