"""How long a start takes: from the process to the first transcript over HTTP, and where it goes.

    python -m tests.bench.start --shapes 1.7B --output tests/bench/results/start-GPU.json
    python -m tests.bench.start --shapes tiny --repeats 1                    (a smoke test)

Starts `python -m predictor` on a checkpoint of random weights (`tests.bench.checkpoint`), waits for
its HTTP port and its readiness, and posts a WAV of ten seconds. The stages in between are the times
of the server's own log lines. Four kinds of start:

    cold           kernels compiled ahead as for the GPU image (`engine.start.precompile`),
                   nothing of the disk in memory (where caches may be dropped; else only the
                   checkpoint's files)
    warm           kernels compiled ahead, files in memory
    compile        no compiled kernels, files in memory
    cold-compile   no compiled kernels, nothing of the disk in memory

The last warm start of a shape serves many pieces at once, too: what memory the server takes then.
This process does not touch the device, so that every start makes its own context.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from predictor.model.checkpoint.reading import MAX_THREADS, PIECE_BYTES
from tests.bench.environment import ROOT
from tests.bench.memory import memory_of_tree, tree_peak_mib
from tests.bench.start_server import TOKENS_PER_AUDIO_S, StartFailedError, noise_wav, served

KINDS = ("warm", "cold", "compile", "cold-compile")
GOALS = {"1.7B start, cold": (8, 3)}  # reach, limit: seconds to the first transcript
CLIP_S = 10
AT_ONCE, PIECE_S = 64, 30  # the load under which memory is measured
DISK_SAMPLE_BYTES = 2 * 10**9
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
MILESTONES = ("listening_s", "ready_s", "first_transcript_s")


def measure(
    folder: Path, kernels: Path, limit_s: float, arguments: Sequence[str] = (), at_once: int = 0
) -> dict[str, Any]:
    """One start, and memory with `at_once` pieces in flight. Raises StartFailedError."""
    wav = noise_wav(CLIP_S)
    in_memory = cached_share(folder)
    with served(folder, kernels, arguments) as server:
        listening_s = server.wait_listening(limit_s)
        ready_s = server.wait_ready(limit_s)
        server.transcribe(wav, limit_s)
        first_s = server.age_s
        began_s = time.perf_counter()
        second = server.transcribe(wav, limit_s)
        took_s = time.perf_counter() - began_s
        peaks = {"rss_peak_ready_mib": tree_peak_mib(server.process.pid)}
        if at_once:
            piece = noise_wav(PIECE_S)
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(lambda _: server.transcribe(piece, limit_s), range(at_once)))
            peaks |= {"rss_peak_mib": tree_peak_mib(server.process.pid), "at_once": at_once}
            peaks |= {"piece_s": PIECE_S, "processes": memory_of_tree(server.process.pid)}
        return {
            "listening_s": listening_s,
            "ready_s": ready_s,
            "first_transcript_s": first_s,
            "second_transcript_took_s": took_s,
            "finish_reason": second["finish_reason"],
            "checkpoint_in_memory": in_memory,
            "stages_s": server.stages(),
            "weights": server.fields("weights read"),
            "kernels": server.fields("kernels ready"),
            **peaks,
        }


def forget(folder: Path) -> str:
    """Take files out of memory; says which."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError:
        for file in folder.iterdir():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return "the checkpoint's files"
    return "all files"


def remember(folder: Path) -> None:
    """Read the checkpoint once."""
    for file in folder.iterdir():
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


def disk_rate(folder: Path) -> float:
    """GB a second that the disk gives of files that are not in memory, read as loading does."""
    file = max(folder.glob("*.safetensors"), key=lambda f: f.stat().st_size)
    size = min(DISK_SAMPLE_BYTES, file.stat().st_size)
    with file.open("rb") as opened, ThreadPoolExecutor(MAX_THREADS) as pool:
        forget(folder)
        began_s = time.perf_counter()
        offsets = range(0, size, PIECE_BYTES)
        list(pool.map(lambda offset: len(os.pread(opened.fileno(), PIECE_BYTES, offset)), offsets))
        return size / 1e9 / (time.perf_counter() - began_s)


def compute_capability() -> int | None:
    """Of the first GPU, 90 for 9.0; asked of the driver's own tool. None where there is none."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(done.stdout.split()[0].replace(".", ""))


def cached_share(folder: Path, samples: int = 200) -> float | None:
    """The share of the weights' bytes that is in memory, from samples; None where unknown."""
    found = tried = 0
    buffer = bytearray(1)
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            size = file.stat().st_size
            for offset in range(0, size, max(1, size // samples)):
                tried += 1
                try:
                    found += os.preadv(opened.fileno(), [buffer], offset, os.RWF_NOWAIT)
                except BlockingIOError:
                    continue
                except OSError:
                    return None
    return found / tried if tried else None


class Bench:
    """One run: its rows and the file they go to."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.deadline = time.monotonic() + arguments.budget_s
        self.result: dict[str, Any] = {
            "environment": {},
            "method": "python -m predictor on random weights; seconds from the start of the "
            f"process; a WAV of {CLIP_S} s posted once ready, its answer capped at "
            f"{TOKENS_PER_AUDIO_S} tokens a second; one start before that does not count; median "
            "of repeats",
            "arguments": arguments.server,
            "goals": GOALS,
            "rows": {},
        }

    def run(self, work: Path) -> None:
        for shape in self.arguments.shapes.split(","):
            folder = (self.arguments.checkpoints or work) / shape
            if not (folder / "config.json").is_file():
                command = [sys.executable, "-m", "tests.bench.checkpoint", str(folder)]
                subprocess.run([*command, "--shape", shape], cwd=ROOT, check=True)
            shipped = self._ship(folder, work / f"kernels-{shape}")
            # The machine's own first use of files and memory is not counted.
            measure(folder, shipped, self.deadline - time.monotonic(), self.arguments.server)
            kinds = self.arguments.kinds.split(",")
            if "cold" in kinds:
                self.result["disk_gb_per_s"] = disk_rate(folder)
            for kind in kinds:
                self._row(f"{shape} start, {kind}", kind, folder, shipped)
        self.save()

    def _ship(self, folder: Path, kernels: Path) -> Path:
        """Compile a shape's kernels as the image is built; where they are."""
        arch = compute_capability()
        made: Path | None = self.arguments.kernels
        if made is not None:
            return made / f"sm_{arch}"
        if arch is None or "cpu" in self.arguments.server:
            return kernels  # there is nothing to compile
        command = [
            sys.executable,
            "-m",
            "predictor.engine.start.precompile",
            "--models",
            str(folder),
        ]
        began_s = time.perf_counter()
        command += ["--archs", str(arch), "--output", str(kernels)]
        subprocess.run(command, cwd=ROOT, check=True)
        self.result["precompile_s"] = time.perf_counter() - began_s
        return kernels / f"sm_{arch}"

    def _row(self, name: str, kind: str, folder: Path, shipped: Path) -> None:
        runs: list[dict[str, Any]] = []
        row: dict[str, Any] = {}
        for index in range(self.arguments.repeats):
            left_s = self.deadline - time.monotonic()
            if left_s < 5 or (runs and left_s < 1.5 * runs[-1]["first_transcript_s"]):
                break
            if kind.startswith("cold"):
                row["dropped"] = forget(folder)
            else:
                remember(folder)
            loads = kind == "warm" and index + 1 == self.arguments.repeats
            at_once = self.arguments.at_once if loads else 0
            with tempfile.TemporaryDirectory(dir=shipped.parent.parent) as empty:
                kernels = Path(empty) if kind.endswith("compile") else shipped
                try:
                    runs.append(measure(folder, kernels, left_s, self.arguments.server, at_once))
                except (StartFailedError, OSError) as error:
                    row["error"] = f"{type(error).__name__}: {error}"[-2000:]
                    break
        if runs:
            middle = sorted(runs, key=lambda run: run["first_transcript_s"])[len(runs) // 2]
            row |= {"value": statistics.median(r["first_transcript_s"] for r in runs), "unit": "s"}
            row |= {name: statistics.median(r[name] for r in runs) for name in MILESTONES}
            row |= {"stages_s": middle["stages_s"], "runs": runs}
            row |= {name: middle[name] for name in ("weights", "kernels")}
        self.result["rows"][name] = row or {"skipped": "out of time"}
        print(f"{name}: {json.dumps(_rounded(row))[:1500]}", file=sys.stderr, flush=True)
        self.save()

    def save(self) -> None:
        output: Path | None = self.arguments.output
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(_rounded(self.result), indent=1) + "\n")

    def table(self) -> str:
        lines = [f"{'seconds since the process began':34}  listening   ready  transcript"]
        for name, row in self.result["rows"].items():
            if "value" not in row:
                lines.append(f"{name:34}  {row.get('error', 'skipped')[:80]}")
                continue
            listening, ready, first = (row[milestone] for milestone in MILESTONES)
            lines.append(f"{name:34}  {listening:9.2f} {ready:7.2f} {first:11.2f}")
        return "\n".join(lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def _environment() -> dict[str, Any]:
    """In a process of its own, which may touch the device."""
    script = (
        "import json; from tests.bench.environment import describe; print(json.dumps(describe()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    described = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(described, dict)
    return described


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", default="1.7B", help="comma-separated: 1.7B,0.6B,tiny")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at_once", type=int, default=AT_ONCE, help=f"pieces of {PIECE_S} s")
    parser.add_argument("--budget_s", type=float, default=240.0)
    parser.add_argument("--checkpoints", type=Path, help="keep checkpoints in this folder")
    parser.add_argument(
        "--kernels", type=Path, help="compiled before, by predictor.engine.start.precompile"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("server", nargs="*", help="after `--`: further flags of the server")
    bench = Bench(parser.parse_args())
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as work:
        bench.run(Path(work))
    bench.result["environment"] = _environment()
    bench.save()
    print(bench.table())


if __name__ == "__main__":
    main()
