"""From samples to transcripts: long recordings cut, their pieces run at once, the answers joined.

Every route ends here, through `transcribe` or `transcribe_stream`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from predictor.errors import NotReady, Overloaded
from predictor.logs import request_id_var
from predictor.metrics import Metrics
from predictor.service.admission import Admission
from predictor.text.echo import is_echo, is_quiet
from predictor.text.joining import Piece, finish_reason, join_pieces
from predictor.text.languages import needs_space
from predictor.text.output import OutputParser, ParsedOutput
from predictor.text.prompt import Prompt, PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import (
    SAMPLE_RATE_HZ,
    EngineRequest,
    Samples,
    TokenChunk,
    TranscribeRequest,
    Transcription,
    Usage,
)


class TokenStream(Protocol):
    """What the engine gives for one request; leaving it early frees the sequence's place."""

    def __aiter__(self) -> AsyncIterator[TokenChunk]: ...
    async def aclose(self) -> None: ...


Submit = Callable[[EngineRequest], TokenStream]  # raises Overloaded when the queue is full
Split = Callable[[Samples, float], Sequence[tuple[int, int]]]  # pieces as (start, end) in samples


@dataclass(frozen=True, slots=True)
class TranscriberOptions:
    """How recordings are cut."""

    segment_s: float  # longer recordings are cut near this length, at the quietest place
    max_segments_at_once: int = 8  # of one recording, so that it leaves room for others


_NO_CAP = 1 << 31  # the engine caps the answer by the audio's length anyway
_RETRY_S = 0.05  # how soon a further piece of an admitted recording tries a full queue again


class Transcriber:
    """Turns TranscribeRequests into Transcriptions with an engine."""

    def __init__(
        self,
        submit: Submit,
        split: Split,
        tokenizer: TextTokenizer,
        prompts: PromptBuilder,
        options: TranscriberOptions,
        admission: Admission,
        metrics: Metrics,
    ) -> None:
        self._submit = submit
        self._split = split
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._options = options
        self._metrics = metrics
        self.admission = admission

    async def transcribe(self, requests: Sequence[TranscribeRequest]) -> list[Transcription]:
        """All of them at once; when one fails the others are stopped and its error is raised.

        Raises Overloaded, and InvalidInput for a context that is too long.
        """
        with self.admission.hold(sum(_duration_s(r.samples) for r in requests)):
            tasks = [asyncio.create_task(self._transcribe_one(r)) for r in requests]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                await _stop(tasks)

    async def transcribe_stream(
        self, request: TranscribeRequest
    ) -> AsyncGenerator[str | Transcription]:
        """The text as it becomes certain, then the whole answer as the last item.

        Raises like `transcribe`. Closing the iterator frees the engine's places.
        """
        with self.admission.hold(_duration_s(request.samples)):
            async with aclosing(self._run(request, streaming=True)) as events:
                async for event in events:
                    yield event

    async def _transcribe_one(self, request: TranscribeRequest) -> Transcription:
        async with aclosing(self._run(request, streaming=False)) as events:
            async for event in events:
                if isinstance(event, Transcription):
                    return event
        raise AssertionError("a run ends with its transcription")

    async def _run(
        self, request: TranscribeRequest, *, streaming: bool
    ) -> AsyncGenerator[str | Transcription]:
        prompt = self._prompts.build(request.context, request.language)
        spans = await self._spans(request.samples)
        gate = asyncio.Semaphore(self._options.max_segments_at_once)
        feeds: list[asyncio.Queue[str | None]] = [asyncio.Queue() for _ in spans]
        tasks = [
            asyncio.create_task(self._run_piece(request, prompt, span, gate, feed, streaming))
            for span, feed in zip(spans, feeds, strict=True)
        ]
        try:
            if streaming:
                said = ""
                for feed in feeds:
                    said_before = said
                    while (delta := await feed.get()) is not None:
                        if said == said_before and needs_space(said, delta):
                            delta = " " + delta
                        said += delta
                        yield delta
            pieces = list(await asyncio.gather(*tasks))
        finally:
            await _stop(tasks)
        yield join_pieces(
            pieces, duration_s=_duration_s(request.samples), language=request.language
        )

    async def _spans(self, samples: Samples) -> Sequence[tuple[int, int]]:
        if _duration_s(samples) <= self._options.segment_s:
            return [(0, len(samples))]
        return await asyncio.to_thread(self._split, samples, self._options.segment_s)

    async def _run_piece(
        self,
        request: TranscribeRequest,
        prompt: Prompt,
        span: tuple[int, int],
        gate: asyncio.Semaphore,
        feed: asyncio.Queue[str | None],
        streaming: bool,
    ) -> Piece:
        samples = request.samples[span[0] : span[1]]
        parser = OutputParser(self._tokenizer, request.language)
        may_echo = bool(request.context) and is_quiet(samples)
        try:
            async with gate:
                stream = await self._submitted(
                    request, prompt, samples, patient=span[0] > 0, streaming=streaming
                )
                last = await self._read(
                    stream, parser, feed if streaming and not may_echo else None
                )
            rest, parsed = parser.finish()
            if may_echo and is_echo(parsed.text, request.context):
                parsed = ParsedOutput("", request.language, 0.0, 0.0, 0, 0)
                rest = ""
            feed.put_nowait(rest if not may_echo else parsed.text)
        finally:
            feed.put_nowait(None)
        return Piece(
            start_s=span[0] / SAMPLE_RATE_HZ,
            end_s=span[1] / SAMPLE_RATE_HZ,
            parsed=parsed,
            finish=finish_reason(last.finish, parsed),
            usage=Usage(last.num_audio_tokens, last.num_prompt_tokens, len(parser.token_ids)),
            token_ids=parser.token_ids,
        )

    async def _submitted(
        self,
        request: TranscribeRequest,
        prompt: Prompt,
        samples: Samples,
        *,
        patient: bool,
        streaming: bool,
    ) -> TokenStream:
        """The engine's stream; `patient` waits for room, the recording being admitted already."""
        engine_request = EngineRequest(
            request_id=f"{request_id_var.get() or 'local'}:{uuid.uuid4().hex}",
            samples=samples,
            tokens_before=prompt.tokens_before,
            tokens_after=prompt.tokens_after,
            max_new_tokens=request.max_new_tokens or _NO_CAP,
            is_streamed=streaming,
        )
        while True:
            try:
                return self._submit(engine_request)
            except Overloaded as error:
                if not patient:
                    raise self.admission.overloaded(_duration_s(samples)) from error
            await asyncio.sleep(_RETRY_S)

    async def _read(
        self, stream: TokenStream, parser: OutputParser, feed: asyncio.Queue[str | None] | None
    ) -> TokenChunk:
        """Drain `stream` into `parser`; returns the last chunk. Raises NotReady on shutdown."""
        submitted = time.monotonic()
        last: TokenChunk | None = None
        try:
            async for chunk in stream:
                if last is None:
                    waited_s = time.monotonic() - submitted
                    self._metrics.time_to_first_token_seconds.observe(waited_s)
                last = chunk
                parser.add(chunk.token_ids, chunk.logprobs)
                if feed is not None and (delta := parser.certain()):
                    feed.put_nowait(delta)
        finally:
            await stream.aclose()
        if last is None or last.finish is None or last.finish == "abort":
            raise NotReady("the engine is shutting down, send the request again")
        return last


async def _stop(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and wait until it has let go of the engine."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _duration_s(samples: Samples) -> float:
    return len(samples) / SAMPLE_RATE_HZ
