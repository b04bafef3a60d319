"""From pieces of recordings to transcripts: some run at once, the answers are joined in order.

Every route ends here, through `transcribe_pieces` or `stream_pieces`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from predictor import tracing
from predictor.errors import AsrError, NotReady
from predictor.logs import note, request_id_var
from predictor.metrics import Metrics
from predictor.service.admission import Admission, Lease
from predictor.service.run import Begun, Feed, Run, TokenStream, stop, unless_failed
from predictor.service.word_times import WordTimes, no_aligner
from predictor.text.echo import is_echo, is_quiet
from predictor.text.joining import Piece, Seams, finish_reason, join_pieces, segment
from predictor.text.languages import needs_space
from predictor.text.output import ASR_TEXT, OutputParser, ParsedOutput
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import (
    SAMPLE_RATE_HZ,
    AnySamples,
    AudioEnd,
    AudioPiece,
    EngineRequest,
    Samples,
    Segment,
    TextRequest,
    TokenChunk,
    TranscribeRequest,
    Transcription,
    Usage,
    Word,
)

logger = logging.getLogger(__name__)


Pieces = AsyncGenerator[AudioPiece | AudioEnd]  # of one recording; the last item is its end
Submit = Callable[[EngineRequest], TokenStream]  # raises NotReady
Ahead = Callable[[], AnySamples | None]  # samples [n] of a recording, if they may be one piece
Split = Callable[[Samples, float], Sequence[tuple[int, int]]]  # pieces as (start, end) in samples

MAX_SEGMENTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class TranscriberOptions:
    """How recordings are cut, and what knows the times of words."""

    segment_s: float  # longer recordings are cut near this length, at the quietest place
    # Of one recording, so that it leaves room for others.
    max_segments_at_once: int = MAX_SEGMENTS_AT_ONCE
    word_times: WordTimes | None = None  # of servers with an aligner
    # The engine begins with so many recordings at a time before it is known what of them is speech,
    # and with none while more are under way: what is thrown away would have a price then.
    max_ahead: int = 0


_DRAFT_TOKENS_PER_S = 16  # more is never said
_NO_CAP = 1 << 31  # the engine caps the answer by the audio's length anyway


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
        self._num_runs = 0  # recordings under way
        self.admission = admission

    @property
    def word_times(self) -> WordTimes | None:
        """What knows when words were said, if there is an aligner."""
        return self._options.word_times

    def check_words(self, request: TextRequest, *, field: str = "words") -> None:
        """Raises InvalidInput for a request for word times that cannot be met.

        `field` is what the caller named it.
        """
        if request.with_words or request.said is not None:
            if self.word_times is None:
                raise no_aligner(field)
            self.word_times.check(request.language)

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token of an answer, perhaps half a character."""
        return self._tokenizer.token_bytes(token_id)

    async def transcribe(self, requests: Sequence[TranscribeRequest]) -> list[Transcription]:
        """All of them at once; when one fails the others are stopped and its error is raised.

        Raises Overloaded, and InvalidInput for a context that is too long.
        """
        with self.admission.hold(sum(_duration_s(r.samples) for r in requests)):
            tasks = [
                asyncio.create_task(self.transcribe_pieces(self._pieces(r.samples), r.text))
                for r in requests
            ]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                await stop(tasks)

    async def transcribe_stream(
        self, request: TranscribeRequest
    ) -> AsyncGenerator[str | Segment | Transcription]:
        """The same for one, as `stream_pieces` has it."""
        with self.admission.hold(_duration_s(request.samples)):
            events = self.stream_pieces(self._pieces(request.samples), request.text)
            async with aclosing(events):
                async for event in events:
                    yield event

    async def transcribe_pieces(
        self,
        pieces: Pieces,
        request: TextRequest,
        lease: Lease | None = None,
        ahead: Ahead | None = None,
    ) -> Transcription:
        """The answer for a recording that comes in pieces, which are closed at the end.

        Each piece is given back to `lease` when it is done. The engine begins at once with what
        `ahead` gives, all of the recording: that gains time where just this turns out to be its
        first piece, and changes no answer. Raises what `pieces` raises, NotReady, and InvalidInput
        for a context that is too long.
        """
        async with aclosing(self._run(pieces, request, lease, ahead, streaming=False)) as events:
            async for event in events:
                if isinstance(event, Transcription):
                    return event
        raise AssertionError("a run ends with its transcription")

    async def stream_pieces(
        self,
        pieces: Pieces,
        request: TextRequest,
        lease: Lease | None = None,
        ahead: Ahead | None = None,
    ) -> AsyncGenerator[str | Segment | Transcription]:
        """The text as it becomes certain, each segment as it ends, the whole answer as last item.

        As `transcribe_pieces`. Closing the iterator frees the engine's places.
        """
        async with aclosing(self._run(pieces, request, lease, ahead, streaming=True)) as events:
            async for event in events:
                yield event

    async def transcribe_piece(self, piece: AudioPiece, request: TextRequest) -> Piece:
        """One piece alone, for who keeps each as it ends. Raises NotReady, and InvalidInput for a
        context that is too long."""
        prompt = self._prompts.build(request.context, request.language)
        run = Run(prompt, request, streaming=False)
        return await self._run_piece(run, piece, asyncio.Queue())

    async def _pieces(self, samples: Samples) -> AsyncGenerator[AudioPiece | AudioEnd]:
        """Of a recording in memory, all of it."""
        spans: Sequence[tuple[int, int]] = [(0, len(samples))]
        if _duration_s(samples) > self._options.segment_s:
            spans = await asyncio.to_thread(self._split, samples, self._options.segment_s)
        for start, end in spans:
            times = start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ
            yield AudioPiece(samples[start:end], *times)
        yield AudioEnd(_duration_s(samples))

    async def _run(
        self,
        pieces: Pieces,
        request: TextRequest,
        lease: Lease | None,
        ahead: Ahead | None,
        *,
        streaming: bool,
    ) -> AsyncGenerator[str | Segment | Transcription]:
        run = Run(self._prompts.build(request.context, request.language), request, streaming)
        if (
            ahead is not None
            and self._num_runs < self._options.max_ahead
            and (whole := ahead()) is not None
        ):
            # Who is alone in all of the pod gets tokens as they are made: what reads them is awake
            # then, and in the processor's caches, when the last ones come.
            held_s = 0.0 if lease is None else lease.held_s
            alone = self.admission.pod_held_audio_s <= held_s
            run.ahead = self._submitted(run, whole, as_they_come=alone)
        self._num_runs += 1
        feeding = asyncio.create_task(self._feed(run, pieces, lease))
        done: list[Piece] = []
        seams, num_segments = Seams(), 0
        said = ""
        try:
            while (under_way := await run.line.get()) is not None:
                task, feed = under_way
                said_before = said
                while (delta := await feed.get()) is not None:
                    if said == said_before and needs_space(said, delta):
                        delta = " " + delta
                    said += delta
                    yield delta
                done.append(await unless_failed(task, feeding))
                if not streaming:
                    continue
                was_told = said != said_before  # as it grew: it meets no others, is certain alone
                for certain in seams.add(done[-1]):
                    if not was_told and (delta := certain.parsed.text):
                        delta = (" " if needs_space(said, delta) else "") + delta
                        said += delta
                        yield delta
                    yield segment(num_segments, certain)
                    num_segments += 1
            end = await feeding
        finally:
            self._num_runs -= 1
            try:
                await stop([feeding, *run.tasks])
            finally:  # also where a caller that leaves is cancelled again
                await run.forget_ahead()
        with tracing.span("join", pieces=len(done)):
            answer = join_pieces(
                done, end, language=request.language, with_words=request.with_words
            )
        if answer.text and (request.with_words or request.said is not None):
            self.check_words(replace(request, language=answer.language))
        if done:
            note(queue_s=round(run.queue_s, 4))
        yield answer

    async def _feed(self, run: Run, pieces: Pieces, lease: Lease | None) -> AudioEnd:
        """Starts each piece when there is a place for it; returns what is known at the end."""
        gate = asyncio.Semaphore(self._options.max_segments_at_once)

        async def one(piece: AudioPiece, feed: Feed) -> Piece:
            try:
                return await self._run_piece(run, piece, feed)
            finally:
                feed.put_nowait(None)
                gate.release()
                if lease is not None:
                    lease.release(piece.new_s)

        end: AudioEnd | None = None
        decoding = tracing.begin("decode_audio")
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, AudioEnd):
                        end = piece
                        break
                    await gate.acquire()
                    feed: Feed = asyncio.Queue()
                    task = asyncio.create_task(one(run.as_begun(piece), feed))
                    run.begin(task, feed)
        finally:
            decoding.end()
            run.line.put_nowait(None)
        assert end is not None
        if lease is not None:
            lease.done(end.duration_s)
            self._metrics.audio_decode_seconds.observe(end.decode_s)
            note(decode_s=round(end.decode_s, 4))
        return end

    async def _run_piece(self, run: Run, piece: AudioPiece, feed: Feed) -> Piece:
        with tracing.span("piece", start_s=piece.start_s, end_s=piece.end_s):
            return await self._transcribed(run, piece, feed)

    async def _transcribed(self, run: Run, piece: AudioPiece, feed: Feed) -> Piece:
        request, streaming = run.request, run.streaming
        parser = OutputParser(self._tokenizer, request.language)
        may_echo = bool(request.context) and is_quiet(piece.samples)
        begun = await self._begun(run, piece)
        is_told = streaming and not piece.meets_others
        last = await self._read(begun, parser, feed if is_told and not may_echo else None)
        if last.times is not None:
            run.queue_s = max(run.queue_s, last.times.began_s - last.times.queued_s)
            tracing.engine_spans(last.times, len(parser.token_ids))
        rest, parsed = parser.finish()
        if may_echo and is_echo(parsed.text, request.context):
            parsed = ParsedOutput("", request.language, 0.0, 0.0, 0, 0)
            rest = ""
        if is_told and (delta := rest if not may_echo else parsed.text):
            feed.put_nowait(delta)
        words = await self._words(request, piece, parser, parsed)
        return Piece(
            start_s=piece.start_s,
            end_s=piece.end_s,
            parsed=parsed,
            finish=finish_reason(last.finish, parsed),
            usage=Usage(last.num_audio_tokens, last.num_prompt_tokens, len(parser.token_ids)),
            token_ids=parser.token_ids,
            token_logprobs=parser.token_logprobs,
            num_header_tokens=parser.num_header_tokens,
            channel=piece.channel,
            words=words,
            overlap_s=piece.overlap_s,
            continues=piece.continues,
        )

    async def _words(
        self, request: TextRequest, piece: AudioPiece, parser: OutputParser, parsed: ParsedOutput
    ) -> tuple[Word, ...] | None:
        """When each word of a piece was said, if that was asked for and can be known."""
        if self.word_times is None or not (request.with_words or request.for_cues):
            return None
        try:
            with tracing.span("words"):
                return await self.word_times.of(
                    piece.samples,
                    parsed.text,
                    parsed.language,
                    at_s=piece.start_s,
                    spans=parser.token_spans(parsed.text),
                    confidence=parsed.confidence,
                )
        except AsrError as error:
            if request.with_words:
                raise
            logger.warning("subtitles without times of words: %s", error.message)
            return None

    async def _begun(self, run: Run, piece: AudioPiece) -> Begun:
        """The piece as the engine has it, perhaps for a while already."""
        if run.ahead is not None and run.ahead.is_all(piece):
            begun, run.ahead = run.ahead, None
            return begun
        if run.ahead is not None:
            run.has_begun = False
        begun = self._submitted(run, piece.samples)
        await run.forget_ahead()
        return begun

    def _submitted(self, run: Run, samples: AnySamples, *, as_they_come: bool = False) -> Begun:
        draft = () if run.has_begun else self._draft(run.request)
        run.has_begun = True
        stream = self._submit(
            EngineRequest(
                request_id=f"{request_id_var.get() or 'local'}:{os.urandom(16).hex()}",
                samples=samples,
                tokens_before=run.prompt.tokens_before,
                tokens_after=run.prompt.tokens_after,
                max_new_tokens=run.request.max_new_tokens or _NO_CAP,
                is_streamed=run.streaming or as_they_come,
                draft=draft[: round(_DRAFT_TOKENS_PER_S * _duration_s(samples))],
            )
        )
        return Begun(samples, stream, time.monotonic())

    def _draft(self, request: TextRequest) -> tuple[int, ...]:
        """Tokens of the answer that may be given, for the first piece. Where no language is forced
        the answer begins with its name, so a draft helps only if it begins so too."""
        header, marker, text = request.draft.rpartition(ASR_TEXT)
        if request.language is not None:
            return tuple(self._tokenizer.encode_plain(text))
        if not marker:
            return ()
        encode, tokenizer = self._tokenizer.encode_plain, self._tokenizer
        return (*encode(header), tokenizer.asr_text, *encode(text))

    async def _read(self, begun: Begun, parser: OutputParser, feed: Feed | None) -> TokenChunk:
        """Drain a stream into `parser`; returns the last chunk. Raises NotReady on shutdown."""
        last: TokenChunk | None = None
        try:
            async for chunk in begun.stream:
                if last is None:
                    waited_s = time.monotonic() - begun.at_s
                    self._metrics.time_to_first_token_seconds.observe(waited_s)
                last = chunk
                parser.add(chunk.token_ids, chunk.logprobs)
                if feed is not None and (delta := parser.certain()):
                    feed.put_nowait(delta)
        finally:
            await begun.stream.aclose()
        if last is None or last.finish is None or last.finish == "abort":
            raise NotReady("the engine is shutting down, send the request again")
        return last


def _duration_s(samples: AnySamples) -> float:
    return len(samples) / SAMPLE_RATE_HZ
