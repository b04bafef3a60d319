"""Memory that large requests leave behind in malloc's arenas, given back when they are over.

glibc keeps what was freed for the next allocation: after an overload that is gigabytes, in the
arenas of the threads that read bodies and decoded audio, and a pod's limit counts them.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import time
from typing import Final

logger = logging.getLogger(__name__)

PERIOD_S: Final = 15.0
COLLECT_PERIOD_S: Final = 30.0  # a collection holds up everything for some milliseconds
MIN_GROWTH_BYTES: Final = 64 * 1024 * 1024  # above the least there ever was; less is not worth it
_PAGE_BYTES: Final = 4096


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def trim() -> None:
    """Give free memory back to the system; other libraries of C have no such call and need none."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


async def give_back_memory() -> None:
    """Runs beside the server until cancelled; trims in a thread, while there is more than at best.

    Not only after growth: what was in use at one trim may be free at the next. Refused bodies may
    hang in cycles of exceptions and frames; a server that is idle after an overload would make too
    few objects for Python to look for them by itself.
    """
    least = resident_bytes()
    collected_s = time.monotonic()
    while True:
        await asyncio.sleep(PERIOD_S)
        now = resident_bytes()
        least = min(least, now)
        if now - least < MIN_GROWTH_BYTES:
            continue
        await asyncio.to_thread(trim)
        since_s = time.monotonic() - collected_s
        if since_s >= COLLECT_PERIOD_S and resident_bytes() - least >= MIN_GROWTH_BYTES:
            collected_s = time.monotonic()
            gc.collect()
            await asyncio.to_thread(trim)
        given = now - resident_bytes()
        if given >= MIN_GROWTH_BYTES:
            logger.info("memory was given back", extra={"fields": {"num_bytes": given}})
