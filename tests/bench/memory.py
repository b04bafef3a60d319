"""How much memory a process and what it started take."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

MEMORY = {"VmHWM": "rss_peak_mib", "VmRSS": "rss_mib", "RssAnon": "rss_anonymous_mib"}


def memory(pid: int | str = "self") -> dict[str, int]:
    """MiB of a process: the most it ever had, what it has, and how much of that is no file's."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in MEMORY:
            found[MEMORY[name]] = int(value.split()[0]) // 1024
    return found


def children(pid: int) -> list[int]:
    """The processes that a process started and that are still there."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found: list[int] = []
    for task in tasks:
        with suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def tree_peak_mib(pid: int) -> int:
    """Peak MiB of a process and all below it, each by itself: what they share counts twice."""
    return memory(pid)["rss_peak_mib"] + sum(tree_peak_mib(child) for child in children(pid))


def memory_of_tree(pid: int) -> list[dict[str, int | str]]:
    """`memory` of a process and all below it, with the module that it runs."""
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    module = next((b for a, b in pairwise(command) if a == "-m"), command[0])
    below = [part for child in children(pid) for part in memory_of_tree(child)]
    return [{"module": module, **memory(pid)}, *below]


def pss_mib(pid: int) -> float:
    """MiB of a process by itself: of what several share, each has its part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


def pss_of_tree(pid: int) -> dict[str, float]:
    """Proportional MiB of a process and all below it by the module that they run; they add up."""
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    module = next((b for a, b in pairwise(command) if a == "-m"), command[0])
    total = {module: pss_mib(pid)}
    for child in children(pid):
        for name, size in pss_of_tree(child).items():
            total[name] = total.get(name, 0.0) + size
    return total
