"""What one recording makes a decoder process hold, watched while it is decoded.

A few kB of MP4 can make a demuxer build gigabytes of index. A limit of the kernel would not do: the
demuxer goes on with what it got, and the recording would end early without a word.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from typing import Final

from predictor.processes.heap import give_freed_memory_back

# Besides what the process has at its start, as much again as the recording's own bytes up to the
# second, and its sound, which is admitted by its seconds. Four hours of MP4 take half of it.
MAX_JOB_BYTES: Final = 64 << 20
MAX_PAID_BYTES: Final = 64 << 20
_OVERSHOOT_BYTES: Final = 16 << 20  # what may be added between two looks
_LOOK_S: Final = 0.01
_BYTES_A_SAMPLE: Final = 32  # of a piece: its buffer as that grows, and what makes it louder


def held_bytes() -> int:
    """Memory of this process that is nobody else's: no pages of files."""
    with open("/proc/self/statm") as file:
        _, resident, shared = file.read().split()[:3]
    return (int(resident) - int(shared)) * resource.getpagesize()


class MemoryGuard:
    """Looks in a thread of its own while it is entered; `give_up` is called there, once."""

    def __init__(self, at_start: int, num_bytes: int, give_up: Callable[[], None]) -> None:
        """`at_start`: what the process held before its first recording; `num_bytes`: of this."""
        paid = min(num_bytes, MAX_PAID_BYTES)
        self._limit = self._of_files = at_start + MAX_JOB_BYTES - _OVERSHOOT_BYTES + paid
        self._give_up = give_up
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def allow_sound(self, num_samples: int) -> None:
        """So many wait to become a piece. What was allowed once stays: it is kept when freed."""
        self._limit = max(self._limit, self._of_files + _BYTES_A_SAMPLE * num_samples)

    def _watch(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            if held_bytes() <= self._limit:
                continue
            give_freed_memory_back()  # kept from recordings before
            if held_bytes() > self._limit and not self._is_over.is_set():
                self._give_up()
                return

    def __enter__(self) -> MemoryGuard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
