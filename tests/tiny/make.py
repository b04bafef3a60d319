"""Makes both embedded checkpoints with one command on a GPU (about 14 minutes on an H200):

    python -m tests.tiny.make --out OUT

Three trainings: `base` from nothing, `base` again at a lower rate, and beside the first `nano` with
snapshots, of which the one nearest to the wanted error becomes `tiny-early`. Writes OUT/tiny and
OUT/tiny-early, ready for predictor/checkpoints, and OUT/scores.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from . import model as tiny
from .tokenizer import ADDED_TOKENS, VOCAB_SIZE

EARLY_ERROR = 17.0  # English, percent: what a version to be replaced should be like
PROCESSOR = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"


def python(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)])


def finish(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        if process.wait():
            raise SystemExit(f"{' '.join(process.args)} failed")  # type: ignore[arg-type]


def train(
    args: argparse.Namespace, out: Path, minutes: float, *more: object
) -> subprocess.Popen[bytes]:
    return python(
        "tests.tiny.train", "--out", out, "--minutes", minutes * args.time, "--device", args.device,
        "--processor", PROCESSOR, *more,
    )  # fmt: skip


def evaluate(
    args: argparse.Namespace, shape: str, weights: Sequence[Path], out: Path, *more: object
) -> None:
    finish(
        python(
            "tests.tiny.evaluate",
            "--shape",
            shape,
            "--processor",
            PROCESSOR,
            "--device",
            args.device,
            "--out",
            out,
            "--count",
            args.count,
            *more,
            "--weights",
            *weights,
        )
    )


def export(shape: str, weights: Path, out: Path) -> None:
    model = tiny.build(tiny.SHAPES[shape], ADDED_TOKENS, VOCAB_SIZE)
    model.load_state_dict(load_file(weights), strict=False)  # the tied head is not in the file
    model.tie_weights()
    tiny.save(model, PROCESSOR, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--time", type=float, default=1.0, help="factor on all training times")
    parser.add_argument("--count", type=int, default=60, help="utterances of an evaluation set")
    parser.add_argument("--processes", type=int, default=10, help="that make speech, for base")
    args = parser.parse_args()
    out: Path = args.out
    share = max(1, args.processes * 2 // 5)
    nano = train(
        args, out / "nano", 3.4, "--shape", "nano", "--lr", 2e-3, "--seed", 2, "--snapshots",
        "--snapshot-from", 90 * args.time, "--snapshot-every", 10 * args.time,
        "--processes", share, "--capacity", int(4e9 * args.time),
        "--first-items", int(2000 * args.time),
    )  # fmt: skip
    base = ("--shape", "base", "--processes", args.processes, "--capacity", int(18e9 * args.time))
    first = ("--first-items", int(6000 * args.time))
    finish(train(args, out / "base-1", 7.8, *base, *first, "--seed", 1), nano)
    again = ("--init", out / "base-1", "--lr", 7e-4, "--ctc-until", 0, "--seed", 11)
    finish(train(args, out / "base-2", 5.0, *base, *first, *again))

    states = [*sorted((out / "nano").glob("snapshot-*")), out / "nano" / "model.safetensors"]
    evaluate(args, "nano", states, out / "early.json", "--sets", "held-out voices")
    evaluate(args, "base", [out / "base-2" / "model.safetensors"], out / "scores.json")
    rows = json.loads((out / "early.json").read_text())
    early = min(rows, key=lambda row: abs(row["English error %"] - EARLY_ERROR))
    export("base", out / "base-2" / "model.safetensors", out / "tiny")
    export("nano", out / "nano" / early["weights"], out / "tiny-early")
    print(f"tiny-early is {early['weights']}: {early}")


if __name__ == "__main__":
    main()
