"""The consumer's end of one request: an async iterator of token chunks in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from predictor.errors import AsrError
from predictor.types import TokenChunk


class TokenStream(AsyncIterator[TokenChunk]):
    """Chunks of one request; the last one carries `finish`, an error is raised in its place.

    Leaving early, by `aclose()` or by cancelling the task that waits, aborts the request. One
    consumer at a time. Chunks that piled up while it was away come as one.
    """

    def __init__(self, request_id: str, abort: Callable[[str], object]) -> None:
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self._abort = abort
        self._items: list[TokenChunk | AsrError] = []
        self._arrived = asyncio.Event()
        self._ended = False  # the last item was handed out, or the consumer left

    def push(self, item: TokenChunk | AsrError) -> None:
        """Called in the event loop by the engine."""
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
            merged = _merged(chunks)
            self._ended = merged.finish is not None
            if not errors:
                self._arrived.clear()
            return merged
        self._ended = True
        raise errors[0]

    async def aclose(self) -> None:
        """Stop the request if it still runs; iteration ends. Harmless to call twice."""
        if not self._ended:
            self._ended = True
            self._abort(self.request_id)

    async def __aenter__(self) -> TokenStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _merged(chunks: list[TokenChunk]) -> TokenChunk:
    last = chunks[-1]
    if len(chunks) == 1:
        return last
    return TokenChunk(
        token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
        logprobs=tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
        finish=last.finish,
        num_prompt_tokens=last.num_prompt_tokens,
        num_audio_tokens=last.num_audio_tokens,
    )
