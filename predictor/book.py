"""What the fronts of one pod know of each other: a few numbers in shared memory.

Each front writes its own line and reads all others. Who decides by the others' numbers, and then
writes its own, does both inside `exclusive`: so two fronts never give the same place away twice.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

_LINE: Final = np.dtype(
    [("held_audio_s", "f8"), ("num_sessions", "i8"), ("state", "i8"), ("num_restarts", "i8")]
)
_ABSENT, _STARTING, _READY = range(3)


class Book:
    """One pod's, as one of its fronts sees it."""

    def __init__(self, path: Path, num_fronts: int, index: int) -> None:
        """Open the file at `path`, or make it: one line for each front, `index` is ours."""
        size = num_fronts * _LINE.itemsize
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        weakref.finalize(self, os.close, self._fd)
        os.ftruncate(self._fd, size)
        memory = mmap.mmap(self._fd, size)
        self._lines = np.frombuffer(memory, dtype=_LINE)
        # Looked at for each request: without numpy, which takes ten times as long for so few.
        self._held_audio_s = memoryview(memory).cast("d")[:: _LINE.itemsize // 8]
        self._index = index

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other front is inside at the same time; not to be nested. A front that dies in there
        leaves it: the kernel frees its lock."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @property
    def others_held_audio_s(self) -> float:
        """Seconds of audio that all other fronts hold."""
        return sum(self._held_audio_s) - self._held_audio_s[self._index]

    def hold(self, audio_s: float) -> None:
        """This front holds so much now."""
        self._held_audio_s[self._index] = audio_s

    @property
    def others_num_sessions(self) -> int:
        """Live sessions that all other fronts have."""
        sessions = self._lines["num_sessions"]
        return int(sessions.sum() - sessions[self._index])

    def have_sessions(self, num_sessions: int) -> None:
        """This front has so many live sessions now."""
        self._lines["num_sessions"][self._index] = num_sessions

    def starts(self, index: int) -> None:
        """A front is on its way, and the pod is not ready without it."""
        self._lines["state"][index] = _STARTING

    def is_ready(self) -> None:
        """This front takes requests."""
        self._lines["state"][self._index] = _READY

    def clear(self, index: int) -> None:
        """A front has gone, and what it held with it."""
        self._lines[index] = (0.0, 0, _ABSENT, self._lines["num_restarts"][index])

    def replaced(self, index: int) -> None:
        """Another front takes the place of one that has gone."""
        self._lines["num_restarts"][index] += 1

    def fronts(self) -> tuple[int, int, int]:
        """How many are ready, how many are not, how many took the place of one that died."""
        num_ready = int((self._lines["state"] == _READY).sum())
        restarts = int(self._lines["num_restarts"].sum())
        return num_ready, len(self._lines) - num_ready, restarts

    def nobody_starts(self) -> bool:
        """Whether no front is on its way to being ready: a pod is ready as one."""
        return not (self._lines["state"] == _STARTING).any()
