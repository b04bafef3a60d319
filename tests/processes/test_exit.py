"""A process that ends holds nothing of torch in a thread that is still there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Freeing torch's events lets go of the GIL, and the interpreter ends meanwhile: whatever thread
# frees them then aborts the process.
_WATCHED = """
import atexit, threading, time, torch
from tests.bench.watchdog import watched
freeing = threading.Event()
class Held:
    def __init__(self):
        self.events = [torch.Event(device="cpu") for _ in range(100_000)]
    def __del__(self):
        freeing.set()
def main():
    held = Held()
    with watched(time.perf_counter() + {left_s}, lambda: print(len(held.events), "events")):
        time.sleep({inside_s})
    print("done", flush=True)
atexit.register(freeing.wait, 10)
main()
"""


def run(left_s: float, inside_s: float) -> subprocess.CompletedProcess[str]:
    script = _WATCHED.format(left_s=left_s, inside_s=inside_s)
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def test_a_benchmark_s_watchdog_is_not_the_last_to_hold_its_tensors() -> None:
    """Real torch: with a thread that nobody waits for, this aborts with 134."""
    done = run(600, 0.01)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_watchdog_tells_what_was_measured_and_leaves() -> None:
    done = run(0.01, 600)
    assert (done.returncode, done.stdout) == (3, "100000 events\n"), done.stderr
