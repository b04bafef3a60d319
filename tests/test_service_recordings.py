"""Recordings are admitted before they are decoded, held no further than their credit, and fair."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from prometheus_client import CollectorRegistry

from predictor.audio.cut import split
from predictor.audio.decode import AudioDecoder, AudioLimits, AudioOptions, CutOptions
from predictor.errors import AudioTooLong, InvalidInput, Overloaded
from predictor.metrics import Metrics
from predictor.service.admission import Admission
from predictor.service.recordings import RecordingRunner, Task
from predictor.service.transcriber import Transcriber, TranscriberOptions
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import Segment, TextRequest, Transcription
from tests.test_service_transcriber import CHECKPOINT, ScriptedEngine

WINDOW_S = 20.0
RATE = 16_000


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(CHECKPOINT)


@pytest.fixture
def start() -> Iterator[Callable[..., AudioDecoder]]:
    started = []

    def make(vad: str = "off", max_duration_s: float = 36_000.0, num_long: int = 2) -> AudioDecoder:
        decoder = AudioDecoder(
            AudioLimits(max_duration_s=max_duration_s, max_decoded_values=1 << 33),
            num_workers=1,
            options=AudioOptions(),
            cuts=CutOptions(segment_s=5.0, vad=vad),  # type: ignore[arg-type]
            num_long=num_long,
            window_s=WINDOW_S,
        )
        started.append(decoder)
        decoder.start()
        return decoder

    yield make
    for decoder in started:
        decoder.close()


class Held(Admission):
    """Remembers the most it ever held."""

    most_s = 0.0

    def _add(self, audio_s: float, num_leases: int = 0) -> None:
        super()._add(audio_s, num_leases)
        self.most_s = max(self.most_s, self.held_audio_s)


def transcriber(
    engine: ScriptedEngine, max_held_audio_s: float = 60.0, max_ahead: int = 0
) -> tuple[Transcriber, Held]:
    metrics = Metrics(CollectorRegistry())
    admission = Held(max_held_audio_s, metrics)
    prompts = PromptBuilder(engine.tokenizer, 100)
    options = TranscriberOptions(segment_s=5.0, max_segments_at_once=4, max_ahead=max_ahead)
    return (
        Transcriber(engine.submit, split, engine.tokenizer, prompts, options, admission, metrics),
        admission,
    )


def says(tokenizer: TextTokenizer) -> ScriptedEngine:
    return ScriptedEngine(tokenizer, lambda _: ("language English<asr_text>yes", "stop"))


def flac(duration_s: float, *, stated: bool = True) -> bytes:
    """Silence, a few hundred bytes a minute; `stated` False: its header says that it is empty."""
    out = io.BytesIO()
    silence = np.zeros(round(duration_s * RATE), np.float32)
    soundfile.write(out, silence, RATE, format="FLAC", subtype="PCM_16")
    data = bytearray(out.getvalue())
    if not stated:
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    return bytes(data)


def task(decoder: AudioDecoder, data: bytes) -> Task:
    return Task(decoder.source(data), TextRequest())


@pytest.mark.parametrize("stated", [True, False])
async def test_small_files_of_many_seconds_stay_within_the_bound(
    stated: bool, tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    decoder = start()
    bombs = [flac(300.0, stated=stated)] * 6
    assert len(bombs[0]) < 60_000  # of 4.8 million samples
    scribe, admission = transcriber(says(tokenizer))
    answers = await RecordingRunner(decoder).run(scribe, [task(decoder, bomb) for bomb in bombs])
    assert [answer.duration_s for answer in answers] == [300.0] * 6
    assert all(answer.segments[-1].end_s == 300.0 for answer in answers)
    # Half a window beyond, for what a block of a codec brings before the decoder asks.
    assert admission.most_s <= 60.0 + WINDOW_S / 2
    assert admission.held_audio_s == 0


async def test_quiet_is_given_back_as_it_is_decoded(
    tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    decoder = start(vad="silero")
    scribe, admission = transcriber(says(tokenizer))
    [answer] = await RecordingRunner(decoder).run(scribe, [task(decoder, flac(600.0))])
    assert (answer.text, answer.language, answer.segments) == ("", None, ())
    assert answer.finish_reason == "silence"
    assert answer.confidence > 0.9  # that nobody speaks
    assert answer.duration_s == 600.0
    assert admission.most_s <= 2 * WINDOW_S + 20


async def test_a_refusal_costs_no_decoding(
    tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    decoder = start()
    for pid in decoder.worker_pids:
        os.kill(pid, signal.SIGSTOP)  # whoever needs it now waits for ever
    scribe, admission = transcriber(says(tokenizer))
    runner = RecordingRunner(decoder)
    waveform = decoder.waveform_source(np.zeros(RATE * 10, np.float32), RATE)
    with admission.hold(55.0):
        for one in (task(decoder, flac(10.0)), Task(waveform, TextRequest())):
            with pytest.raises(Overloaded, match="10 s more are over the limit max_held_audio_s"):
                await runner.run(scribe, [one])
            with pytest.raises(Overloaded):
                async for _ in runner.stream(scribe, one):
                    pass
        with pytest.raises(Overloaded):  # all of a request, or nothing of it
            await runner.run(scribe, [task(decoder, flac(4.0))] * 3)
        assert admission.held_audio_s == 55.0
    for pid in decoder.worker_pids:
        os.kill(pid, signal.SIGCONT)


async def test_a_short_recording_does_not_wait_for_long_ones(
    tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    decoder, engine = start(), says(tokenizer)
    engine.go.clear()  # nothing is ever transcribed: the long ones stay where they are
    scribe, admission = transcriber(engine, max_held_audio_s=200.0)
    runner = RecordingRunner(decoder)
    long = [
        asyncio.create_task(runner.run(scribe, [task(decoder, flac(900.0, stated=stated))]))
        for stated in (True, False, True, False, True, False)
    ]
    while engine.num_running < 8:  # both places for long ones are taken
        await asyncio.sleep(0)
    assert len(await decoder.decode(flac(3.0))) == 3 * RATE
    for each in long:
        each.cancel()
    await asyncio.gather(*long, return_exceptions=True)
    assert engine.num_running == 0
    assert admission.held_audio_s == 0
    engine.go.set()
    [answer] = await runner.run(scribe, [task(decoder, flac(60.0))])  # the places are free again
    assert answer.duration_s == 60.0


async def test_a_recording_past_the_limit_is_found_out_while_it_is_decoded(
    tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    decoder = start(max_duration_s=60.0)
    scribe, admission = transcriber(says(tokenizer))
    with pytest.raises(AudioTooLong, match="more than 60 s"):
        await RecordingRunner(decoder).run(scribe, [task(decoder, flac(600.0, stated=False))])
    assert admission.held_audio_s == 0


async def test_the_bad_recording_of_many_is_named(
    tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    decoder = start()
    scribe, admission = transcriber(says(tokenizer))
    broken = flac(1.0)[:60]
    with pytest.raises(InvalidInput, match="item 1: "):
        await RecordingRunner(decoder).run(
            scribe, [task(decoder, data) for data in (flac(1.0), broken, flac(1.0))]
        )
    assert admission.held_audio_s == 0


async def test_segments_come_while_the_rest_is_not_decoded_yet(
    tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    decoder, engine = start(), says(tokenizer)
    scribe, _ = transcriber(engine)
    events: AsyncIterator[str | Segment | Transcription] = RecordingRunner(decoder).stream(
        scribe, task(decoder, flac(600.0))
    )
    first = None
    async for event in events:
        if isinstance(event, Segment):
            first = first or event
            if event.id == 0:
                assert len(engine.requests) < 20  # of 120
        last = event
    assert first is not None
    assert first.start_s == 0.0
    assert isinstance(last, Transcription)
    assert len(last.segments) >= 120
    assert last.text == " ".join(["yes"] * len(last.segments))


def resident_kb(pid: int | str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


async def test_memory_does_not_grow_with_the_recording(
    tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    decoder = start(vad="energy")
    scribe, _ = transcriber(says(tokenizer))
    peaks = []
    for minutes in (5, 120):
        events = RecordingRunner(decoder).stream(scribe, task(decoder, flac(60.0 * minutes)))
        pids: set[int] = set()
        reading = asyncio.create_task(anext(events))  # quiet throughout: one event, the answer
        while not reading.done():
            pids |= set(decoder.worker_pids)
            peaks.append((minutes, max(resident_kb(pid) for pid in decoder.worker_pids)))
            await asyncio.wait({reading}, timeout=0.2)
        assert isinstance(reading.result(), Transcription)
        await events.aclose()
    short = max(peak for minutes, peak in peaks if minutes == 5)
    long = max(peak for minutes, peak in peaks if minutes == 120)
    assert long < short + 30_000  # kB; its samples are 460 MB


async def test_a_draft_is_what_the_model_would_write(
    tokenizer: TextTokenizer, start: Callable[..., AudioDecoder]
) -> None:
    """Where no language is forced, the answer begins with it: a draft of the text alone is none."""
    decoder = start()
    whole = "language English<asr_text>turn it on"
    header, _, text = whole.rpartition("<asr_text>")
    encode = tokenizer.encode_plain
    with_header = [*encode(header), tokenizer.asr_text, *encode(text)]
    for language, draft, given in (
        ("English", text, encode(text)),
        ("English", whole, encode(text)),
        (None, whole, with_header),
        (None, text, []),
        (None, "", []),
    ):
        engine = says(tokenizer)
        asked = Task(decoder.source(flac(2.0)), TextRequest(language=language, draft=draft))
        scribe, _ = transcriber(engine)
        await RecordingRunner(decoder).run(scribe, [asked])
        assert list(engine.requests[0].draft) == list(given)
