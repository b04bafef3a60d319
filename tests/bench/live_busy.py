"""How busy each kind of process is while live streams are measured: all share one machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_KINDS: Final = {
    "tests.bench.http_worker": "engine", "tests.bench.http_front": "fronts",
    "tests.bench.live_client": "clients", "tests.bench.live_speakers": "clients",
}  # fmt: skip
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def cores_between(begin_s: float, end_s: float) -> dict[str, float]:
    """Waits until `end_s` of time.monotonic(); cores that each kind of our descendants kept busy
    from `begin_s` on."""
    time.sleep(max(0.0, begin_s - time.monotonic()))
    before, began_s = _seconds(), time.monotonic()
    time.sleep(max(0.0, end_s - time.monotonic()))
    after, wall_s = _seconds(), time.monotonic() - began_s
    return {kind: round((after[kind] - before[kind]) / wall_s, 2) for kind in sorted(after)}


def _seconds() -> dict[str, float]:
    """Processor time so far, by kind."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            values = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(folder.name)
        parents[pid], ticks[pid] = int(values[1]), int(values[11]) + int(values[12])
    spent = dict.fromkeys(_KINDS.values(), 0.0)
    for pid in ticks:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and (kind := _kind(pid)) is not None:
            spent[kind] += ticks[pid] / _TICKS_A_SECOND
    return spent


def _kind(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return None
    return next((kind for name, kind in _KINDS.items() if name in words), None)
