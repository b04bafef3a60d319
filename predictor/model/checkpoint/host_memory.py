"""How much memory the host has left; torch-free, for what runs before torch is there."""

from __future__ import annotations

from pathlib import Path


def free_host_bytes(root: Path) -> int | None:
    """The machine's available memory or the container's, whichever is less (Linux only)."""
    known = [_meminfo(root / "proc/meminfo"), _cgroup(root / "sys/fs/cgroup")]
    return min((size for size in known if size is not None), default=None)


def _meminfo(file: Path) -> int | None:
    if not file.is_file():
        return None
    for line in file.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _cgroup(folder: Path) -> int | None:
    limit, used = folder / "memory.max", folder / "memory.current"
    if not (limit.is_file() and used.is_file()):
        return None
    text = limit.read_text(encoding="ascii").strip()
    if text == "max":
        return None
    held = int(used.read_text(encoding="ascii")) - _cached_files(folder / "memory.stat")
    return max(0, int(text) - held)


def _cached_files(file: Path) -> int:
    """Bytes of files that the system keeps, and drops when memory is asked for."""
    if not file.is_file():
        return 0
    lines = (line.partition(" ") for line in file.read_text(encoding="ascii").splitlines())
    return sum(int(v) for name, _, v in lines if name in ("inactive_file", "active_file"))
