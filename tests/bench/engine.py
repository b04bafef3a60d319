"""The engine's speed: every row of the table in one command, beside its limits and other ways.

    python -m tests.bench.engine --output tests/bench/results/engine-GPU.json
    python -m tests.bench.engine --shapes tiny --device cpu --budget_s 10       (a smoke test)

Random weights of the true shapes, made on the device; answers forced to 3.5 tokens a second of
audio by taking the end tokens out of the runner's limits. A row that fails leaves its error in the
result and the others run on; the file is written anew after each row.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from tests.bench.engine_bench import GOALS, Bench
from tests.bench.engine_rows import run_shape
from tests.bench.watchdog import watched

GRACE_S = 15.0  # beyond the budget, before the process leaves


def start_from_disk(bench: Bench, shape: str) -> None:
    """The rows of tests/bench/start.py: a process, its checkpoint on disk, the first transcript."""
    bench.model = bench.clips = None
    bench.free()
    left_s = bench.deadline - time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "start.json"
        command = [sys.executable, "-m", "tests.bench.start", "--shapes", shape, "--repeats", "1"]
        command += ["--budget_s", f"{max(5.0, left_s):.0f}", "--output", str(output)]
        subprocess.run(command, check=True, stdout=sys.stderr, timeout=max(30.0, left_s + 10))
        bench.result["rows"] |= json.loads(output.read_text())["rows"]
    bench.save()


def table(result: dict[str, Any]) -> str:
    """What was measured beside what was aimed at."""
    lines = [f"{'row':<46}{'measured':>10} {'unit':<8}{'reach':>8}{'limit':>8}  note"]
    for name, row in result["rows"].items():
        reach, limit = GOALS.get(name, ""), result["limits"].get(name)
        bound = "" if limit is None else f"{limit:.4g}"
        value = row.get("value")
        shown = "-" if value is None else f"{value:.4g}"
        note = row.get("error") or row.get("skipped") or row.get("note", "")
        if "median_repeat" in row:
            m = row["median_repeat"]
            note = (
                " ".join(f"{part} {share:.0%}" for part, share in m["shares"].items())
                + f", {m['prefill_steps']}+{m['decode_looks']} steps"
            )
        lines.append(
            f"{name:<46}{shown:>10} {row.get('unit', ''):<8}{reach!s:>8}{bound:>8}  "
            f"{str(note)[:160]}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="1.7B,0.6B", help="1.7B, 0.6B, tiny; comma-separated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", default="", help="parts of names, or =name; comma-separated")
    parser.add_argument("--budget_s", type=float, default=600.0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp8", "int8"))
    parser.add_argument("--kv_precision", default="auto", choices=("auto", "fp8"))
    parser.add_argument(
        "--switches",
        default="",
        help="fields of Fusion to change: shared=0,full_tile_8_bit=64x4x3",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(max(1, min(8, (os.cpu_count() or 1) // 2)))
    bench = Bench(arguments)
    with watched(bench.deadline + GRACE_S, lambda: print(table(bench.result))):
        measure_all(bench, arguments)
    print(table(bench.result), flush=True)


def measure_all(bench: Bench, arguments: argparse.Namespace) -> None:
    """All shapes, one after the other."""
    chosen = [part for part in arguments.rows.split(",") if part]

    def wanted(name: str) -> bool:
        return not chosen or any(part in name or part == f"={name}" for part in chosen)

    def wanted_of_second(name: str) -> bool:
        return wanted(name) and name in ("offline 30 s", "one 10 s clip", "offline 10 s")

    shapes, last = arguments.shapes.split(","), bench.deadline
    for index, shape in enumerate(shapes):
        bench.deadline = last - (len(shapes) - 1 - index) * min(40.0, arguments.budget_s / 4)
        try:
            bench.use(shape)
            run_shape(bench, wanted if index == 0 else wanted_of_second)
        except Exception as error:  # noqa: BLE001  the next shape goes on
            traceback.print_exc()
            bench.result["rows"][f"{shape} failed"] = {"error": repr(error)[:500]}
    if wanted("start, from disk"):
        try:
            start_from_disk(bench, shapes[0])
        except (OSError, subprocess.SubprocessError) as error:
            bench.result["rows"][f"{shapes[0]} start, from disk"] = {"error": repr(error)[:500]}
    bench.save()


if __name__ == "__main__":
    main()
