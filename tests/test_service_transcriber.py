"""The transcriber with a scripted source of tokens: cutting, joining, streaming, letting go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from predictor.audio.cut import split
from predictor.errors import InternalError, InvalidInput, NotReady, Overloaded
from predictor.metrics import Metrics
from predictor.service.admission import Admission
from predictor.service.transcriber import Transcriber, TranscriberOptions
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import (
    AudioEnd,
    AudioPiece,
    EngineFinish,
    EngineRequest,
    Samples,
    Segment,
    TextRequest,
    TokenChunk,
    TranscribeRequest,
    Transcription,
)

CHECKPOINT = Path(__file__).parents[1] / "predictor" / "checkpoints" / "tiny"
RATE = 16_000


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(CHECKPOINT)


class Script(AsyncIterator[TokenChunk]):
    """Plays tokens one by one; `aclose` before the end is an abort."""

    def __init__(self, engine: ScriptedEngine, chunks: list[TokenChunk]) -> None:
        self._engine = engine
        self._chunks = chunks
        self._ended = False

    async def __anext__(self) -> TokenChunk:
        await self._engine.go.wait()
        await asyncio.sleep(0)
        if not self._chunks:
            raise StopAsyncIteration
        chunk = self._chunks.pop(0)
        if not self._chunks:
            self._end()
        return chunk

    async def aclose(self) -> None:
        if not self._ended:
            self._engine.num_aborted += 1
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._engine.num_running -= 1


class ScriptedEngine:
    """Says for each piece what `say` gives for its samples: header and text, and how it ended."""

    def __init__(
        self, tokenizer: TextTokenizer, say: Callable[[Samples], tuple[str, EngineFinish]]
    ) -> None:
        self.tokenizer = tokenizer
        self.say = say
        self.go = asyncio.Event()
        self.go.set()
        self.num_running = 0
        self.most_running = 0
        self.num_aborted = 0
        self.requests: list[EngineRequest] = []

    def submit(self, request: EngineRequest) -> Script:
        self.requests.append(request)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        header, _, text = self.say(request.samples)[0].rpartition("<asr_text>")
        finish = self.say(request.samples)[1]
        ids = self.tokenizer.encode_plain(text)
        if header:
            ids = [*self.tokenizer.encode_plain(header), self.tokenizer.asr_text, *ids]
        chunks = [TokenChunk((i,), (-0.25,)) for i in ids]
        return Script(self, [*chunks, TokenChunk((), (), finish, 40, 13)])


def _transcriber(
    engine: ScriptedEngine, *, max_held_audio_s: float = 1e6, at_once: int = 8
) -> Transcriber:
    metrics = Metrics(CollectorRegistry())
    return Transcriber(
        engine.submit,
        split,
        engine.tokenizer,
        PromptBuilder(engine.tokenizer, 100),
        TranscriberOptions(segment_s=30.0, max_segments_at_once=at_once),
        Admission(max_held_audio_s, metrics),
        metrics,
    )


def _request(seconds: float, level: float = 0.1, **more: str) -> TranscribeRequest:
    noise = np.random.default_rng(0).normal(0, level, round(seconds * RATE))
    return TranscribeRequest(noise.astype(np.float32), **more)


async def _stream(
    transcriber: Transcriber, request: TranscribeRequest
) -> tuple[str, Transcription]:
    deltas = ""
    async for event in transcriber.transcribe_stream(request):
        if isinstance(event, Transcription):
            return deltas, event
        if isinstance(event, str):
            deltas += event
    raise AssertionError("no answer")


async def test_a_short_recording(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>turn it on", "stop"))
    [answer] = await _transcriber(engine).transcribe([_request(2.0)])
    assert (answer.text, answer.language) == ("turn it on", "English")
    assert answer.finish_reason == "stop"
    assert answer.duration_s == 2.0
    assert answer.confidence == pytest.approx(np.exp(-0.25))
    [segment] = answer.segments
    assert (segment.start_s, segment.end_s, segment.text) == (0.0, 2.0, "turn it on")
    assert answer.usage.num_completion_tokens == len(segment.token_ids)


async def test_a_long_recording_is_cut_joined_and_covered(tokenizer: TextTokenizer) -> None:
    said = iter(["one", "two", "three", "four"])
    words = {i: next(said) for i in range(4)}
    engine = ScriptedEngine(tokenizer, lambda _: ("", "stop"))
    engine.say = lambda _: (f"language English<asr_text>{words[len(engine.requests) - 1]}", "stop")
    [answer] = await _transcriber(engine, at_once=1).transcribe([_request(100.0, context="hot")])
    assert answer.text == "one two three four"
    edges = [(s.start_s, s.end_s) for s in answer.segments]
    assert edges[0][0] == 0.0
    assert edges[-1][1] == answer.duration_s == 100.0
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    assert all(end - start <= 30.0 for start, end in edges)
    contexts = {request.tokens_before for request in engine.requests}
    assert len(contexts) == 1  # every piece has the context


async def test_pieces_run_at_once_but_not_all_of_them(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>a b c", "stop"))
    await _transcriber(engine, at_once=3).transcribe([_request(300.0)])
    assert engine.most_running == 3
    assert len(engine.requests) >= 10


async def test_chinese_pieces_join_without_spaces(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language Chinese<asr_text>打开灯", "stop"))
    transcriber = _transcriber(engine)
    [answer] = await transcriber.transcribe([_request(40.0)])
    assert answer.text == "打开灯打开灯"
    deltas, streamed = await _stream(transcriber, _request(40.0))
    assert deltas == streamed.text == answer.text


async def test_the_language_is_that_of_the_longer_part(tokenizer: TextTokenizer) -> None:
    def say(samples: Samples) -> tuple[str, EngineFinish]:
        long = len(samples) > 15 * RATE
        return ("language German<asr_text>ja" if long else "language French<asr_text>oui", "stop")

    engine = ScriptedEngine(tokenizer, say)
    [answer] = await _transcriber(engine).transcribe([_request(35.0)])
    assert answer.language == "German"
    assert {s.language for s in answer.segments} == {"German", "French"}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["stop", "stop"], "stop"),
        (["stop", "length"], "length"),
        (["length", "repetition"], "repetition"),
    ],
)
async def test_the_worst_finish_reason_of_the_pieces_counts(
    tokenizer: TextTokenizer, pieces: list[EngineFinish], expected: str
) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("", "stop"))
    engine.say = lambda _: ("language English<asr_text>yes", pieces[len(engine.requests) - 1])
    [answer] = await _transcriber(engine).transcribe([_request(40.0)])
    assert answer.finish_reason == expected


async def test_silence(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language None<asr_text>", "stop"))
    [answer] = await _transcriber(engine).transcribe([_request(1.0)])
    assert (answer.text, answer.language, answer.finish_reason) == ("", None, "silence")


async def test_endless_repetition_is_cut_counted_and_said(tokenizer: TextTokenizer) -> None:
    text = "well " + "ha ha " * 40 + "done"
    engine = ScriptedEngine(tokenizer, lambda _: (f"language English<asr_text>{text}", "stop"))
    transcriber = _transcriber(engine)
    [answer] = await transcriber.transcribe([_request(3.0)])
    assert answer.text == "well ha done"
    assert answer.num_repeats_removed == len(text) - len("well ha done")
    assert answer.finish_reason == "repetition"
    deltas, streamed = await _stream(transcriber, _request(3.0))
    assert deltas == streamed.text == answer.text


async def test_an_echo_of_the_context_in_silence_is_dropped(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>kettle lamp", "stop"))
    transcriber = _transcriber(engine)
    context = "Kettle, lamp, Xyzzy"
    quiet = _request(2.0, level=1e-4, context=context)
    deltas, streamed = await _stream(transcriber, quiet)
    assert (deltas, streamed.text, streamed.finish_reason) == ("", "", "silence")
    assert streamed.language is None
    for heard in (_request(2.0, context=context), _request(2.0, level=1e-4, context="other words")):
        [answer] = await transcriber.transcribe([heard])
        assert answer.text == "kettle lamp"


async def test_a_stream_starts_before_the_piece_ends(tokenizer: TextTokenizer) -> None:
    text = "turn on the kitchen light and close the window please"
    engine = ScriptedEngine(tokenizer, lambda _: (f"language English<asr_text>{text}", "stop"))
    events = _transcriber(engine).transcribe_stream(_request(3.0))
    seen = [(event, engine.num_running) async for event in events if isinstance(event, str)]
    assert len(seen) > 3
    assert seen[0][1] == 1
    assert "".join(delta for delta, _ in seen) == text


async def test_a_stream_that_is_left_frees_its_places(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>a b c d e f", "stop"))
    transcriber = _transcriber(engine, max_held_audio_s=100.0)
    async with aclosing(transcriber.transcribe_stream(_request(80.0))) as events:
        await anext(events)
    assert engine.num_running == 0
    assert engine.num_aborted > 0
    await transcriber.transcribe([_request(90.0)])  # the capacity is free again


async def test_a_cancelled_request_frees_its_places(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>a", "stop"))
    engine.go.clear()
    transcriber = _transcriber(engine, max_held_audio_s=100.0)
    task = asyncio.create_task(transcriber.transcribe([_request(10.0), _request(80.0)]))
    while engine.num_running < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.num_running == 0
    assert engine.num_aborted == 4
    engine.go.set()
    await transcriber.transcribe([_request(90.0)])


async def test_one_failed_item_stops_the_others(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>a", "stop"))
    transcriber = _transcriber(engine)
    with pytest.raises(InvalidInput, match="the limit is 100 tokens"):
        await transcriber.transcribe([_request(1.0), _request(1.0, context="x" * 10_000)])
    assert engine.num_running == 0


async def test_audio_seconds_are_bounded(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>a", "stop"))
    engine.go.clear()
    transcriber = _transcriber(engine, max_held_audio_s=10.0)
    first = asyncio.create_task(transcriber.transcribe([_request(20.0)]))  # alone it may be longer
    while not engine.num_running:
        await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await transcriber.transcribe([_request(1.0)])
    assert caught.value.retry_after_s >= 1
    assert "max_held_audio_s of 10 s" in caught.value.message
    engine.go.set()
    await first
    await transcriber.transcribe([_request(9.0)])


async def test_an_engine_that_stops_is_not_an_answer(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>a", "abort"))
    with pytest.raises(NotReady):
        await _transcriber(engine).transcribe([_request(1.0)])


async def test_an_error_of_one_piece_ends_a_stream(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>a b c", "stop"))
    inner = engine.submit

    def submit(request: EngineRequest) -> Script:
        if len(engine.requests) == 1:
            raise InternalError("x")
        return inner(request)

    engine.submit = submit  # type: ignore[method-assign]
    with pytest.raises(InternalError):
        await _stream(_transcriber(engine, at_once=1), _request(40.0))
    assert engine.num_running == 0


async def test_no_delta_is_empty(tokenizer: TextTokenizer) -> None:
    """Neither where the last token brings nothing new, nor where nobody spoke."""
    for said in ("language English<asr_text>turn it on", "language None<asr_text>"):
        engine = ScriptedEngine(tokenizer, lambda _, said=said: (said, "stop"))
        events = [e async for e in _transcriber(engine).transcribe_stream(_request(70.0))]
        assert "" not in events


async def test_text_behind_a_piece_that_failed_is_not_sent(tokenizer: TextTokenizer) -> None:
    """A caller would take what it has for the whole text, with a hole in it."""
    number = 0

    def say(_: Samples) -> tuple[str, EngineFinish]:
        nonlocal number
        number += 1
        return f"language English<asr_text>piece {number}", "stop"

    engine = ScriptedEngine(tokenizer, say)
    submit = engine.submit

    def failing(request: EngineRequest) -> Script:
        if len(engine.requests) == 1:
            engine.requests.append(request)
            raise InternalError("the second")
        return submit(request)

    engine.submit = failing  # type: ignore[method-assign]
    sent: list[str] = []

    async def listen() -> None:
        async for event in _transcriber(engine, at_once=3).transcribe_stream(_request(85.0)):
            sent.extend([event] if isinstance(event, str) else [])

    with pytest.raises(InternalError):
        await listen()
    assert "".join(sent).startswith("piece")
    assert "".join(sent).count("piece") == 1


async def test_overlapping_pieces_are_told_once_in_streams_and_answers(
    tokenizer: TextTokenizer,
) -> None:
    """Each piece is as loud as its place in the list of texts."""
    texts = ["we went to the mar", "to the market and bo", "and bought bread.", "Then home."]
    texts.append("And to bed.")  # behind a short pause that the piece before has as well
    spans = [
        (0.0, 3.0, 0.0, True, False),
        (2.0, 5.0, 1.0, True, True),
        (4.0, 6.0, 1.0, False, True),
        (8.0, 9.0, 0.0, False, False),
        (8.875, 9.5, 0.125, False, False),
    ]
    engine = ScriptedEngine(
        tokenizer, lambda s: (f"language English<asr_text>{texts[round(float(s[0]) * 10)]}", "stop")
    )

    async def pieces() -> AsyncGenerator[AudioPiece | AudioEnd]:
        for index, (start_s, end_s, overlap_s, *cut) in enumerate(spans):
            samples = np.full(round((end_s - start_s) * RATE), index / 10, np.float32)
            yield AudioPiece(samples, start_s, end_s, None, overlap_s, *map(bool, cut))
        yield AudioEnd(10.0)

    expected = "we went to the market and bought bread. Then home. And to bed."
    transcriber = _transcriber(engine)
    with transcriber.admission.lease(10.0) as lease:
        answer = await transcriber.transcribe_pieces(pieces(), TextRequest(), lease)
        assert lease.held_s == pytest.approx(10.0 - 7.5)  # what two have is given back once
    assert answer.text == expected
    deltas, segments, last = "", [], None
    async for event in transcriber.stream_pieces(pieces(), TextRequest()):
        if isinstance(event, str):
            deltas += event
        elif isinstance(event, Segment):
            segments.append(event)
        else:
            last = event
    assert last is not None
    assert deltas == last.text == expected
    assert [(s.id, s.start_s, s.end_s, s.text) for s in segments] == [
        (s.id, s.start_s, s.end_s, s.text) for s in last.segments
    ]
    assert [(s.start_s, s.end_s) for s in segments] == [
        (0, 2.5), (2.5, 4.5), (4.5, 6), (8, 9), (9, 9.5),
    ]  # fmt: skip
