"""The recordings of one request: admitted together, decoded and transcribed side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

from predictor import tracing
from predictor.audio.as_sent import as_sent, seems_filled
from predictor.audio.cut import UNCUT_SHARE
from predictor.audio.decode import AudioDecoder, Source
from predictor.errors import InvalidInput
from predictor.service.admission import Lease
from predictor.service.run import stop
from predictor.service.said import align_said
from predictor.service.transcriber import Transcriber
from predictor.types import AnySamples, Segment, TextRequest, Transcription

# Of one request, in windows of one recording: what is more waits for its turn within the request,
# so that a request of many long recordings is no more than a few requests of one.
_WINDOWS_AT_ONCE: Final = 4.0


@dataclass(frozen=True, slots=True)
class Task:
    """One recording that was looked at, and what is asked for."""

    source: Source
    text: TextRequest


class RecordingRunner:
    """From recordings to transcripts with a decoder."""

    def __init__(self, decoder: AudioDecoder) -> None:
        self._decoder = decoder

    async def run(self, transcriber: Transcriber, tasks: Sequence[Task]) -> list[Transcription]:
        """The answers in order; when one fails the others are stopped and its error is raised.

        Raises Overloaded before anything is decoded, and what decoding and transcribing raise;
        InvalidInput carries the index of its recording.
        """
        with ExitStack() as stack:
            leases = self._first_leases(transcriber, tasks, stack)
            turns = asyncio.Semaphore(len(leases))
            each = [
                self._one(transcriber, task, turns, leases[i] if i < len(leases) else None)
                for i, task in enumerate(tasks)
            ]
            if len(each) == 1:  # a task of its own would cost it turns of the loop
                try:
                    return [await each[0]]
                except InvalidInput as refused:
                    raise refused.at(0) from refused
            running = [asyncio.create_task(one) for one in each]
            try:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
                for index, task in enumerate(running):
                    if task in done and (error := task.exception()) is not None:
                        raise error.at(index) if isinstance(error, InvalidInput) else error
                return [task.result() for task in running]
            finally:
                await stop(running)

    async def stream(
        self, transcriber: Transcriber, task: Task
    ) -> AsyncGenerator[str | Segment | Transcription]:
        """The events of one recording; see `Transcriber.stream_pieces`."""
        source = task.source
        with transcriber.admission.lease(source.first_s, self._decoder.window_s) as lease:
            pieces = self._decoder.pieces(source, lease)
            events = transcriber.stream_pieces(pieces, task.text, lease, partial(_ahead, source))
            async with aclosing(events):
                async for event in events:
                    yield event

    def _first_leases(
        self, transcriber: Transcriber, tasks: Sequence[Task], stack: ExitStack
    ) -> list[Lease]:
        """Of those that begin at once, at least one. Raises Overloaded."""
        leases: list[Lease] = []
        window_s, capacity_s = self._decoder.window_s, transcriber.admission.max_held_audio_s
        left_s = min(_WINDOWS_AT_ONCE * window_s, capacity_s / 2)
        for task in tasks:
            left_s -= task.source.first_s
            if leases and left_s < 0:
                break
            lease = transcriber.admission.lease(task.source.first_s, window_s)
            leases.append(stack.enter_context(lease))
        return leases

    async def _one(
        self, transcriber: Transcriber, task: Task, turns: asyncio.Semaphore, lease: Lease | None
    ) -> Transcription:
        source = task.source
        async with turns:
            if lease is None:
                lease = await transcriber.admission.lease_in_turn(
                    source.first_s, self._decoder.window_s
                )
            with lease, tracing.span("recording"):
                pieces = self._decoder.pieces(source, lease)
                if task.text.said is not None:
                    return await align_said(transcriber, pieces, task.text, lease)
                return await transcriber.transcribe_pieces(
                    pieces, task.text, lease, partial(_ahead, source)
                )


def _ahead(source: Source) -> AnySamples | None:
    """What the engine may begin with while a decoder looks for speech, or nobody does."""
    cuts = source.cuts
    if (source.stated_s or 0) > UNCUT_SHARE * cuts.segment_s:
        return None
    samples = as_sent(source)
    if samples is None or cuts.vad == "off":
        return samples
    return samples if seems_filled(samples, cuts) else None
