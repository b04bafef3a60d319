"""How long one turn of the event loop takes, in the processor's time, so that other work on the
machine changes nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import orjson

ALLOWED_S = 0.02  # or more on a slow machine: what orjson takes for this many bytes
ALLOWED_BYTES = 512 * 1024


def longest_allowed_s() -> float:
    """The longest that anything may hold the loop, on this machine."""
    body = b"[" + b",".join([b'"a"'] * (ALLOWED_BYTES // 4)) + b"]"
    began = time.thread_time()
    orjson.loads(body)
    return max(ALLOWED_S, 2 * (time.thread_time() - began))


@contextmanager
def longest_turn() -> Iterator[list[float]]:
    """The most processor time that one callback of the loop takes in the block. What the tests
    hold themselves is not collected meanwhile, as in a server that is ready."""
    longest = [0.0]
    gc.collect()
    gc.freeze()
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        longest[0] = max(longest[0], time.thread_time() - began)

    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield longest
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        gc.unfreeze()
