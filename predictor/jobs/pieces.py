"""The pieces of one job's recording, with what interactive requests leave of the engine.

Every finished piece is kept at once: after a crash the recording is decoded again, which costs
little, and only pieces that are not there are transcribed. One piece is always under way; more are
while requests hold little audio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final

from predictor.audio.decode import AudioDecoder, Source
from predictor.service.transcriber import MAX_SEGMENTS_AT_ONCE, Transcriber
from predictor.text.joining import Piece
from predictor.types import AudioEnd, AudioPiece, TextRequest

_LOOK_S: Final = 0.1  # how often is looked whether requests leave room
_BUSY_SHARE: Final = 0.1  # of max_held_audio_s: when requests hold more, one piece at a time
_ROUNDING_S: Final = 1e-3

Keep = Callable[[int, Piece], Awaitable[None]]


class PieceRun:
    """From a recording to all of its pieces, kept."""

    def __init__(
        self,
        decoder: AudioDecoder,
        transcriber: Transcriber,
        request: TextRequest,
        kept: Mapping[int, Piece],
        keep: Keep,
    ) -> None:
        """`kept` are the pieces that are there, by position; `keep` takes each new one."""
        self._decoder = decoder
        self._transcriber = transcriber
        self._request = request
        self._kept = kept
        self._keep = keep
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_pieces = 0  # that were found

    async def all_pieces(self, source: Source) -> AudioEnd:
        """Returns when every piece is kept. Raises what decoding, transcribing and `keep` raise."""
        window = _Window(source.first_s, self._decoder.window_s)
        end: AudioEnd | None = None
        try:
            async with aclosing(self._decoder.pieces(source, window)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, AudioEnd):
                        end = piece
                        break
                    await self._take(piece, window)
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        assert end is not None
        return end

    async def _take(self, piece: AudioPiece, window: _Window) -> None:
        position, self.num_pieces = self.num_pieces, self.num_pieces + 1
        kept = self._kept.get(position)
        if kept is not None and _is_of(kept, piece):
            window.release(piece.new_s)
            return
        await self._turn()
        self._tasks.add(asyncio.create_task(self._one(position, piece, window)))

    async def _one(self, position: int, piece: AudioPiece, window: _Window) -> None:
        try:
            done = await self._transcriber.transcribe_piece(piece, self._request)
            await self._keep(position, done)
        finally:
            window.release(piece.new_s)

    async def _turn(self) -> None:
        """Returns when one more piece may begin. Raises what a piece under way raised."""
        while self._tasks:
            done = {task for task in self._tasks if task.done()}
            self._tasks -= done
            for error in [task.exception() for task in done]:  # all of them are looked at
                if error is not None:
                    raise error
            if not self._tasks or (
                len(self._tasks) < MAX_SEGMENTS_AT_ONCE and self._requests_leave_room()
            ):
                return
            await asyncio.wait(self._tasks, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)

    def _requests_leave_room(self) -> bool:
        admission = self._transcriber.admission
        return admission.pod_held_audio_s <= _BUSY_SHARE * admission.max_held_audio_s


class _Window:
    """Seconds of one job's audio in memory: outside of admission, so that requests never wait for
    a job, and bounded by itself."""

    def __init__(self, held_s: float, window_s: float) -> None:
        self._held_s = held_s
        self._window_s = window_s
        self._changed = asyncio.Event()

    async def grow(self, audio_s: float, kept_s: float) -> None:
        """Returns when there is room, or nothing is held that could make room."""
        while (
            self._held_s + audio_s > self._window_s + _ROUNDING_S
            and self._held_s > max(kept_s, 0.0) + _ROUNDING_S
        ):
            self._changed.clear()
            await self._changed.wait()
        self._held_s += audio_s

    def release(self, audio_s: float) -> None:
        """So much is no longer in memory."""
        self._held_s -= audio_s
        self._changed.set()


def _is_of(kept: Piece, piece: AudioPiece) -> bool:
    """Whether this is what was transcribed: another version may cut in other places."""
    return (kept.start_s, kept.end_s, kept.channel) == (piece.start_s, piece.end_s, piece.channel)
