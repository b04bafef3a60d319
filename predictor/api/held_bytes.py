"""How many bytes of request bodies are in memory, over all protocols together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from predictor.errors import Overloaded


class HeldBytes:
    """Counts bytes of bodies against one limit; used from the event loop alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.num_bytes = 0
        self._changed = asyncio.Event()

    def add(self, num_bytes: int) -> None:
        """Bytes that came in, or went if negative."""
        self.num_bytes += num_bytes
        if num_bytes < 0:
            self._changed.set()

    def check(self, num_bytes: int, *, own: int = 0) -> None:
        """Raises Overloaded unless a body of `num_bytes` fits beside those of others.

        `own` of the bytes held are this body's. A body alone fits always.
        """
        others = self.num_bytes - own
        if others and others + num_bytes > self.limit:
            raise Overloaded(
                f"{others} bytes of request bodies are held, the limit is {self.limit}"
            )

    @asynccontextmanager
    async def room(self, num_bytes: int, timeout_s: float) -> AsyncIterator[Callable[[int], None]]:
        """Wait for room, and hold it while the block runs; it gives what sets the size in truth.

        Raises Overloaded when there is none within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.num_bytes and self.num_bytes + num_bytes > self.limit:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self.check(num_bytes)
        held = num_bytes
        self.add(held)

        def hold(size: int) -> None:
            nonlocal held
            self.add(size - held)
            held = size

        try:
            yield hold
        finally:
            self.add(-held)
