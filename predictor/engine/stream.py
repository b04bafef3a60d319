"""The tokens of a request as an async iterator in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from predictor.engine.sequence import merged
from predictor.errors import AsrError
from predictor.types import TokenChunk


class TokenStream(AsyncIterator[TokenChunk]):
    """Chunks of one request; the last one carries `finish`, an error is raised in its place.

    Leaving early, by `aclose()` or by cancelling the task that waits, aborts the request. One
    consumer at a time. Chunks that piled up while it was away come as one.
    """

    def __init__(self, request_id: str, leave: Callable[[str], object]) -> None:
        """Belongs to the running event loop; `leave` is called when its reader goes early."""
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self._leave = leave
        self._items: list[TokenChunk | AsrError] = []
        self._arrived = asyncio.Event()
        self._ended = False  # the last item was handed out, or the consumer left

    def push(self, item: TokenChunk | AsrError) -> None:
        """Called in the event loop by the engine's client."""
        self._items.append(item)
        self._arrived.set()

    async def __anext__(self) -> TokenChunk:
        if self._ended:
            raise StopAsyncIteration
        try:
            await self._arrived.wait()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        return self._take()

    def _take(self) -> TokenChunk:
        chunks = [item for item in self._items if isinstance(item, TokenChunk)]
        errors = [item for item in self._items if isinstance(item, AsrError)]
        if chunks:
            self._items = list(errors)
            chunk = merged(chunks)
            self._ended = chunk.finish is not None
            if not errors:
                self._arrived.clear()
            return chunk
        self._ended = True
        raise errors[0]

    async def aclose(self) -> None:
        """Stop the request if it still runs; iteration ends. Harmless to call twice."""
        if not self._ended:
            self._ended = True
            self._leave(self.request_id)

    async def __aenter__(self) -> TokenStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
