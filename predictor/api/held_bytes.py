"""How many bytes of request bodies are in memory, over all protocols together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from predictor.errors import Overloaded


class HeldBytes:
    """Counts bytes of bodies against one limit; used from the event loop alone."""

    def __init__(self, limit: int, max_promised: int | None = None) -> None:
        """`max_promised`: of the limit, for bodies that may come in and whose size is not known;
        who promises and sends nothing must leave room for others. None: all of it."""
        self.limit = limit
        self.num_bytes = 0
        self._max_promised = limit if max_promised is None else max_promised
        self._num_promised = 0
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
                while not self._may_promise(num_bytes):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Overloaded(
                f"{self.num_bytes} bytes of request bodies are held or awaited, "
                f"the limit is {self.limit}"
            ) from None
        held = promised = num_bytes
        self.add(held)
        self._num_promised += promised

        def hold(size: int) -> None:
            nonlocal held, promised
            self._num_promised -= promised
            promised = 0
            self.add(size - held)
            held = size

        try:
            yield hold
        finally:
            self._num_promised -= promised
            self.add(-held)

    def _may_promise(self, num_bytes: int) -> bool:
        """What is alone always fits."""
        promised = self._num_promised
        return (not promised or promised + num_bytes <= self._max_promised) and (
            not self.num_bytes or self.num_bytes + num_bytes <= self.limit
        )
