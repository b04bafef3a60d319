"""Who in the server uses how much of a processor, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from tests.bench.memory import children

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ROLES = {
    "predictor.audio.worker": "decoders",
    "tests.bench.http_front": "fronts",
    "tests.bench.http_worker": "engine",
    "tests.bench.http_server": "server",
}


def used_s(pid: int) -> dict[str, float]:
    """Processor seconds so far of a server's processes by role; the engine's main thread, which
    reads requests, apart from its others, of which one drives the device."""
    total: dict[str, float] = {}
    for role, seconds in _parts(pid):
        total[role] = total.get(role, 0.0) + seconds
    return total


def _parts(pid: int) -> list[tuple[str, float]]:
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    module = next((b for a, b in pairwise(command) if a == "-m"), command[0])
    role = _ROLES.get(module, module)
    parts = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = role
        if role == "engine":
            name = "engine reads" if int(task.name) == pid else "engine steps"
        with suppress(OSError):  # a thread that has ended meanwhile
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            parts.append((name, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S))
    return parts + [part for child in children(pid) for part in _parts(child)]
