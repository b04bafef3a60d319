"""Where the tokens of a request go: an async iterator in an event loop, or whatever is a Sink."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from predictor.errors import AsrError
from predictor.types import TokenChunk

Item: TypeAlias = TokenChunk | AsrError
Delivery: TypeAlias = tuple[Any, Item]  # the sink of a request, and what is new for it


class Outlet(Protocol):
    """Takes the items of many sinks at once, so that a step costs one wake-up and not 256."""

    def hand_over(self, deliveries: Sequence[Delivery]) -> None:
        """Called by the engine's threads. RuntimeError when nobody is left to listen."""
        ...


class Sink(Protocol):
    """The receiving end of one request; those that share an outlet are served together."""

    @property
    def request_id(self) -> str: ...
    @property
    def outlet(self) -> Outlet: ...


@dataclass(frozen=True, slots=True)
class LoopOutlet:
    """Hands items to the streams of one event loop."""

    loop: asyncio.AbstractEventLoop

    def hand_over(self, deliveries: Sequence[Delivery]) -> None:
        """RuntimeError when the loop is closed."""
        self.loop.call_soon_threadsafe(_push_all, deliveries)


def _push_all(deliveries: Sequence[Delivery]) -> None:
    for stream, item in deliveries:
        stream.push(item)


class TokenStream(AsyncIterator[TokenChunk]):
    """Chunks of one request; the last one carries `finish`, an error is raised in its place.

    Leaving early, by `aclose()` or by cancelling the task that waits, aborts the request. One
    consumer at a time. Chunks that piled up while it was away come as one.
    """

    def __init__(self, request_id: str, abort: Callable[[str], object]) -> None:
        self.request_id = request_id
        self.outlet = LoopOutlet(asyncio.get_running_loop())
        self._abort = abort
        self._items: list[Item] = []
        self._arrived = asyncio.Event()
        self._ended = False  # the last item was handed out, or the consumer left

    def push(self, item: Item) -> None:
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
