"""One recording under way: its pieces in order, and what the engine has of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from predictor.text.joining import Piece
from predictor.text.prompt import Prompt
from predictor.types import AnySamples, AudioEnd, AudioPiece, TextRequest, TokenChunk

Feed = asyncio.Queue[str | None]  # the text of a piece as it grows; None at its end


class TokenStream(Protocol):
    """What the engine gives for one request; leaving it early frees the sequence's place."""

    def __aiter__(self) -> AsyncIterator[TokenChunk]: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Begun:
    """Samples [n] that the engine has."""

    samples: AnySamples
    stream: TokenStream
    at_s: float  # since when, by the machine's monotonic clock

    def is_all(self, piece: AudioPiece) -> bool:
        """Whether they are this piece, to the last bit."""
        ours, theirs = self.samples, piece.samples
        return ours is theirs or (ours.dtype == theirs.dtype and np.array_equal(ours, theirs))


class Run:
    """One recording under way, and what is asked of it."""

    def __init__(self, prompt: Prompt, request: TextRequest, streaming: bool) -> None:
        self.prompt = prompt
        self.request = request
        self.streaming = streaming
        self.has_begun = False  # whether the first piece, whose the draft is, was submitted
        self.ahead: Begun | None = None  # all of the recording, before it is known to be a piece
        self.queue_s = 0.0  # the longest that a piece waited in the engine
        self.line: asyncio.Queue[tuple[asyncio.Task[Piece], Feed] | None] = asyncio.Queue()
        self.tasks: set[asyncio.Task[Piece]] = set()

    def begin(self, task: asyncio.Task[Piece], feed: Feed) -> None:
        """One more piece; it is forgotten when it is done and its answer was taken."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self.line.put_nowait((task, feed))

    def as_begun(self, piece: AudioPiece) -> AudioPiece:
        """The same piece; with the samples that were begun ahead if it is all of them, so that a
        decoder's file of them is closed now and not when the answer is due."""
        if self.ahead is None or not self.ahead.is_all(piece):
            return piece
        return replace(piece, samples=self.ahead.samples)

    async def forget_ahead(self) -> None:
        """What was begun ahead is no piece of the recording."""
        if self.ahead is not None:
            begun, self.ahead = self.ahead, None
            await begun.stream.aclose()


async def unless_failed(task: asyncio.Task[Piece], feeding: asyncio.Task[AudioEnd]) -> Piece:
    """The piece's answer; raises at once what kept the rest of the recording from coming."""
    if not task.done():
        await asyncio.wait({task, feeding}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and feeding.exception() is not None:
            feeding.result()
    return await task


async def stop(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and wait until it has let go of the engine; a failure is no news."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:  # else the answer would wait for two turns of the loop
        await asyncio.gather(*running, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.exception()
