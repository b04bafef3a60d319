"""The engine begins with a recording before a decoder has said what of it is speech.

Decoders are real processes, speech is found by silero's published network, and recordings are those
of the evaluation set.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from predictor.audio.as_sent import as_sent, seems_filled
from predictor.audio.decode import AudioDecoder, AudioLimits, AudioOptions, CutOptions
from predictor.audio.source import Source
from predictor.errors import AudioError
from predictor.service.recordings import RecordingRunner, Task
from predictor.shared_samples import as_float
from predictor.text.tokenizer import TextTokenizer
from predictor.types import AudioPiece, TextRequest
from tests.test_service_recordings import says, transcriber
from tests.test_service_transcriber import CHECKPOINT, ScriptedEngine

RATE = 16_000
EVALUATION = Path(__file__).parent / "data" / "eval"


def looking() -> AudioDecoder:
    """One that looks at recordings; to decode them it must be started."""
    cuts = CutOptions(segment_s=30.0)
    return AudioDecoder(AudioLimits(), num_workers=1, options=AudioOptions(), cuts=cuts)


@pytest.fixture
def decoder() -> Iterator[AudioDecoder]:
    made = looking()
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(CHECKPOINT)


@pytest.fixture
def engine(tokenizer: TextTokenizer) -> ScriptedEngine:
    return says(tokenizer)


def speech() -> NDArray[np.float32]:
    """Of the evaluation set, from the first word to the last."""
    samples, rate_hz = soundfile.read(CHECKPOINT.parents[1] / "recordings/demo-en-1.flac")
    assert rate_hz == RATE
    loud = np.flatnonzero(np.abs(samples) > 0.05)
    spoken: NDArray[np.float32] = samples[loud[0] : loud[-1]].astype(np.float32)
    return spoken


def wav(samples: NDArray[np.float32], subtype: str = "PCM_16", rate_hz: int = RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate_hz, format="WAV", subtype=subtype)
    return out.getvalue()


def quiet(seconds: float) -> NDArray[np.float32]:
    return np.zeros(round(seconds * RATE), np.float32)


class Unlimited:
    """Credit without an end."""

    async def grow(self, audio_s: float, kept_s: float) -> None: ...
    def release(self, audio_s: float) -> None: ...


async def first_piece(decoder: AudioDecoder, source: Source) -> AudioPiece | None:
    found = [item async for item in decoder.pieces(source, Unlimited())]
    return found[0] if isinstance(found[0], AudioPiece) else None


async def test_the_engine_has_it_while_the_decoder_still_listens(
    decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    scribe, admission = transcriber(engine, max_ahead=4)
    source = decoder.source(wav(speech()))
    [pid] = decoder.worker_pids
    os.kill(pid, signal.SIGSTOP)
    try:
        running = asyncio.create_task(
            RecordingRunner(decoder).run(scribe, [Task(source, TextRequest())])
        )
        while not engine.requests:
            await asyncio.sleep(0.001)
        assert not running.done()
    finally:
        os.kill(pid, signal.SIGCONT)
    [answer] = await running
    assert answer.text == "yes"
    assert (len(engine.requests), engine.num_aborted, admission.held_audio_s) == (1, 0, 0)
    piece = await first_piece(decoder, source)
    assert piece is not None
    assert np.array_equal(engine.requests[0].samples, piece.samples)


@pytest.mark.parametrize("others_s", [0.0, 5.0])
async def test_only_who_is_alone_gets_tokens_as_they_are_made(
    others_s: float, decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    scribe, admission = transcriber(engine, max_ahead=4)
    task = Task(decoder.source(wav(speech())), TextRequest())
    with admission.hold(others_s):
        [answer] = await RecordingRunner(decoder).run(scribe, [task])
    assert answer.text == "yes"
    assert [request.is_streamed for request in engine.requests] == [others_s == 0]


@pytest.mark.parametrize(
    ("before_s", "after_s", "is_ahead"), [(3.0, 0.0, False), (0.0, 3.0, False), (0.0, 0.0, True)]
)
async def test_what_is_quiet_at_its_ends_is_not_begun(
    before_s: float, after_s: float, is_ahead: bool, decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    samples = np.concatenate([quiet(before_s), speech(), quiet(after_s)])
    source = decoder.source(wav(samples))
    whole = as_sent(source)
    assert whole is not None
    assert seems_filled(whole, source.cuts) == is_ahead
    scribe, _ = transcriber(engine, max_ahead=4)
    [answer] = await RecordingRunner(decoder).run(scribe, [Task(source, TextRequest())])
    assert answer.text == "yes"
    assert [len(request.samples) < len(samples) for request in engine.requests] == [not is_ahead]


async def test_what_turns_out_to_be_cut_is_begun_again_with_its_draft(
    decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    """Loud at its ends, speech only in the middle."""
    click = 0.5 * np.sign(np.sin(np.arange(RATE // 3) * 0.8)).astype(np.float32)
    samples = np.concatenate([click, quiet(3), speech(), quiet(3), click])
    source = decoder.source(wav(samples))
    whole = as_sent(source)
    assert whole is not None
    assert seems_filled(whole, source.cuts)
    scribe, _ = transcriber(engine, max_ahead=4)
    draft = TextRequest(draft="language English<asr_text>yes")
    [answer] = await RecordingRunner(decoder).run(scribe, [Task(source, draft)])
    assert answer.text == "yes"
    ahead, piece = engine.requests
    assert len(piece.samples) < len(ahead.samples) == len(samples)
    assert ahead.draft == piece.draft != ()
    assert (engine.num_aborted, engine.num_running) == (1, 0)


async def test_noise_without_speech_is_given_up(
    decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    scribe, _ = transcriber(engine, max_ahead=4)
    task = Task(decoder.source(wav(noise)), TextRequest())
    [answer] = await RecordingRunner(decoder).run(scribe, [task])
    assert (answer.text, answer.finish_reason) == ("", "silence")
    assert (len(engine.requests), engine.num_aborted, engine.num_running) == (1, 1, 0)


async def test_a_caller_that_leaves_takes_it_back(
    decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    engine.go.clear()
    scribe, admission = transcriber(engine, max_ahead=4)
    task = Task(decoder.source(wav(speech())), TextRequest())
    running = asyncio.create_task(RecordingRunner(decoder).run(scribe, [task]))
    while not engine.requests:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (engine.num_running, engine.num_aborted, admission.held_audio_s) == (0, 1, 0)


async def test_a_caller_that_is_cancelled_again_takes_it_back_too(
    decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    engine.go.clear()
    scribe, admission = transcriber(engine, max_ahead=4)
    task = Task(decoder.source(wav(speech())), TextRequest())
    [pid] = decoder.worker_pids
    os.kill(pid, signal.SIGSTOP)
    try:
        running = asyncio.create_task(RecordingRunner(decoder).run(scribe, [task]))
        while not engine.requests:
            await asyncio.sleep(0.001)
        while not running.done():  # at every step of its way out
            running.cancel()
            await asyncio.sleep(0)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert running.cancelled()
    while admission.held_audio_s or engine.num_running:
        await asyncio.sleep(0.001)
    assert engine.num_aborted == 1


async def test_a_busy_engine_begins_with_nothing_that_may_be_thrown_away(
    decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    engine.go.clear()
    scribe, admission = transcriber(engine, max_held_audio_s=600.0, max_ahead=16)
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    tasks = [Task(decoder.source(wav(noise)), TextRequest()) for _ in range(40)]
    [pid] = decoder.worker_pids
    os.kill(pid, signal.SIGSTOP)
    try:
        runner = RecordingRunner(decoder)
        running = [asyncio.create_task(runner.run(scribe, [task])) for task in tasks]
        while admission.held_audio_s < len(tasks):  # all have come, and wait for the decoder
            await asyncio.sleep(0.001)
    finally:
        os.kill(pid, signal.SIGCONT)
    answers = await asyncio.gather(*running)
    assert all(answer.text == "" for [answer] in answers)
    assert len(engine.requests) == engine.num_aborted == 16


async def test_evaluation_recordings_are_the_same_to_the_last_bit(decoder: AudioDecoder) -> None:
    """All that a decoder makes one piece of; and what loudness says is never taken for granted."""
    manifest = (EVALUATION / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    num_whole = 0
    for line in manifest[::9]:
        path = EVALUATION / json.loads(line)["audio"]
        samples = soundfile.read(path, dtype="float32")[0]
        for subtype in ("PCM_16", "FLOAT"):
            source = decoder.source(wav(samples, subtype))
            whole, piece = as_sent(source), await first_piece(decoder, source)
            if whole is None:
                assert len(samples) > 30.0 * RATE or np.abs(samples).max() > 1.0
            elif piece is not None and len(piece.samples) == len(whole):
                num_whole += 1
                assert whole.dtype == piece.samples.dtype
                assert np.array_equal(whole, piece.samples)
    assert num_whole > 0


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("channels", [1, 2])
async def test_only_what_needs_nothing_done_is_taken_as_it_is(
    rate_hz: int, subtype: str, channels: int, request: pytest.FixtureRequest
) -> None:
    samples = 0.2 * np.random.default_rng(1).standard_normal((RATE, channels)).astype(np.float32)
    source = looking().source(wav(samples, subtype, rate_hz))
    taken = as_sent(source)
    is_plain = rate_hz == RATE and channels == 1 and subtype in ("PCM_16", "FLOAT")
    assert (taken is not None) == is_plain
    if taken is not None:
        decoder: AudioDecoder = request.getfixturevalue("decoder")
        assert np.array_equal(as_float(taken), await decoder.decode(source.data))


@pytest.mark.parametrize(
    "options", [AudioOptions(high_pass_hz=80.0), AudioOptions(loudness_lufs=-23.0), AudioOptions(1)]
)
def test_what_is_to_be_filtered_is_not(options: AudioOptions) -> None:
    assert as_sent(looking().source(wav(speech()), options=options)) is None


async def test_without_speech_detection_no_decoder_is_asked(
    decoder: AudioDecoder, engine: ScriptedEngine
) -> None:
    [pid] = decoder.worker_pids
    os.kill(pid, signal.SIGSTOP)
    try:
        scribe, admission = transcriber(engine, max_ahead=4)
        off = CutOptions(segment_s=20.0, vad="off")
        source = decoder.source(wav(speech()), cuts=off)
        [answer] = await RecordingRunner(decoder).run(scribe, [Task(source, TextRequest())])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert answer.text == "yes"
    assert answer.duration_s == len(speech()) / RATE
    assert admission.held_audio_s == 0


async def test_a_longest_piece_of_no_whole_number_of_samples_is_a_decoders(
    decoder: AudioDecoder,
) -> None:
    longest_s = 8.03  # times 16 000 that is a little less than 128 480
    noise = 0.1 * np.random.default_rng(0).standard_normal(128_480).astype(np.float32)
    for num_samples in (128_479, 128_480):
        cuts = CutOptions(segment_s=longest_s, vad="off")
        source = decoder.source(wav(noise[:num_samples]), cuts=cuts)
        found = [item async for item in decoder.pieces(source, Unlimited())]
        pieces = [item for item in found if isinstance(item, AudioPiece)]
        assert all(len(piece.samples) <= longest_s * RATE for piece in pieces)
        assert (as_sent(source) is None) == (len(pieces) == 2)


def test_long_floats_are_a_decoders() -> None:
    cuts = CutOptions(segment_s=400.0, vad="off")
    noise = 0.1 * np.random.default_rng(0).standard_normal(100 * RATE).astype(np.float32)
    assert as_sent(looking().source(wav(noise, "FLOAT"), cuts=cuts)) is None
    assert as_sent(looking().source(wav(noise), cuts=cuts)) is not None


@pytest.fixture(scope="module")
def decoded() -> Iterator[Callable[[bytes], NDArray[np.float32]]]:
    """What a decoder makes of a file, whole."""
    decoder = looking()
    decoder.start()
    with asyncio.Runner() as runner:
        yield lambda data: runner.run(decoder.decode(data))
        decoder.close()


@settings(max_examples=60, deadline=None)
@example(values=[1e34], size=None)
@example(values=[math.nan, math.inf], size=None)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([1.0, -1.0]),
        min_size=1,
        max_size=40,
    ),
    size=st.none() | st.integers(0, 2**32 - 1),
)
def test_any_floats_are_as_a_decoder_has_them(
    values: list[float], size: int | None, decoded: Callable[[bytes], NDArray[np.float32]]
) -> None:
    """NaN, infinities and too loud ones too, in files whose header may lie about their size."""
    body = np.array(values, "<f4").tobytes()
    layout = struct.pack("<HHIIHH", 3, 1, RATE, 4 * RATE, 4, 32)
    sized = len(body) if size is None else size
    head = b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + struct.pack("<I", 16)
    data = head + layout + b"data" + struct.pack("<I", sized) + body

    try:
        source = looking().source(data)
    except AudioError:
        return
    taken = as_sent(source)
    if taken is not None:
        assert np.array_equal(as_float(taken), decoded(data))
