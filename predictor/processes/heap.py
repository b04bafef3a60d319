"""What a process keeps of the memory that it freed."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

# Of <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE_BYTES: Final = 32 << 20  # larger blocks come from the system each time; glibc's limit
_KEPT_BYTES: Final = 128 << 20  # at the end of the heap
_NUM_ARENAS: Final = 4


def keep_freed_memory() -> None:
    """Keep what a request needed for the next one, instead of giving it back page by page.

    A recording of 30 s passes through buffers of one and two megabytes; to get them from the
    system and give them back costs 1.5 to 4 ms of processor time for each request. What is
    kept is bounded. Nothing happens where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_ARENA_MAX, _NUM_ARENAS)  # each keeps some, and there are dozens of threads


def give_freed_memory_back() -> None:
    """What `keep_freed_memory` kept. Nothing happens where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
