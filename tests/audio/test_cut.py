"""Pieces by speech: nothing said is lost, none is too long, quiet lies in none."""

from __future__ import annotations

import contextlib
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.audio.cut import Cut, Cutter
from predictor.audio.decode import AudioDecoder
from predictor.audio.limits import CutOptions
from predictor.errors import InvalidInput
from predictor.types import Samples
from tests.bench.long_cuts import num_whole
from tests.bench.long_recordings import clips, joined_at

ROOT = Path(__file__).parents[2]
RATE = 16_000


def clip(name: str) -> Samples:
    samples, _ = soundfile.read(ROOT / f"predictor/recordings/demo-{name}.flac", dtype="float32")
    return np.asarray(samples, np.float32)


def cut(samples: Samples, options: CutOptions, block: int = 4_000) -> list[Cut]:
    cutter = Cutter(options)
    pieces = []
    for start in range(0, len(samples), block):
        pieces += cutter.feed(samples[start : start + block])
        # Never more than the longest piece, its margins and what is looked ahead.
        assert cutter.num_waiting <= (options.segment_s + 2.0) * RATE + block
    pieces += cutter.finish()
    assert cutter.num_waiting == 0
    new = sum(len(piece.samples) - piece.overlap for piece in pieces)
    assert cutter.num_dropped == len(samples) - new
    for piece in pieces:
        assert np.array_equal(piece.samples, samples[piece.start :][: len(piece.samples)])
    for a, b in pairwise(pieces):
        assert a.start < b.start
        assert a.start + len(a.samples) - b.overlap <= b.start
        assert b.overlap > 0 if a.continues else b.overlap <= options.margin_s * RATE
    assert not pieces or not pieces[-1].continues
    return pieces


# Loud and quiet stretches, for the energy detector: exactly known speech.
STRETCHES = st.lists(st.tuples(st.floats(0.3, 9.0), st.floats(0.02, 4.0)), min_size=1, max_size=6)


@given(
    stretches=STRETCHES, segment_s=st.sampled_from([2.0, 5.0, 30.0]), block=st.integers(300, 90_000)
)
@settings(max_examples=60, deadline=None)
def test_all_that_is_said_lies_in_a_piece_and_no_piece_is_too_long(
    stretches: list[tuple[float, float]], segment_s: float, block: int
) -> None:
    rng = np.random.default_rng(1)
    parts, spoken, position = [np.zeros(8_000, np.float32)], [], 8_000
    for loud_s, quiet_s in stretches:
        loud, quiet = round(loud_s * RATE), round(quiet_s * RATE)
        parts += [rng.normal(0, 0.1, loud).astype(np.float32), np.zeros(quiet, np.float32)]
        spoken.append((position, position + loud))
        position += loud + quiet
    samples = np.concatenate(parts)
    pieces = cut(samples, CutOptions(segment_s=segment_s, vad="energy"), block)
    assert all(len(piece.samples) <= segment_s * RATE for piece in pieces)
    covered = np.zeros(len(samples), bool)
    for piece in pieces:
        covered[piece.start : piece.start + len(piece.samples)] = True
    # At a cut inside a loud stretch without any pause nothing is left out.
    assert all(covered[start:end].all() for start, end in spoken)
    quiet = ~covered
    for (_, end), (start, _) in pairwise([*spoken, (len(samples), len(samples))]):
        if start - end > 1.5 * RATE:
            assert quiet[end + RATE // 2 : start - RATE // 2].all()


@pytest.mark.parametrize("block", [512, 16_000, 10_000_000])
def test_pieces_do_not_depend_on_the_blocks(block: int) -> None:
    silence = np.zeros(3 * RATE, np.float32)
    samples = np.concatenate([silence, clip("en-1"), silence, clip("zh-4"), clip("en-2"), silence])
    options = CutOptions(segment_s=6.0)
    pieces = cut(samples, options, block) if block < len(samples) else [
        *(cutter := Cutter(options)).feed(samples), *cutter.finish()
    ]  # fmt: skip
    whole = cut(samples, options, 4_000)
    assert [(p.start, len(p.samples)) for p in pieces] == [(p.start, len(p.samples)) for p in whole]


def test_pieces_begin_before_speech_and_end_after_it() -> None:
    speech = clip("en-2")
    samples = np.concatenate(
        [np.zeros(5 * RATE, np.float32), speech, np.zeros(5 * RATE, np.float32)]
    )
    [piece] = cut(samples, CutOptions())
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    assert 0 <= loud[0] - piece.start <= 0.4 * RATE
    assert 0 <= piece.start + len(piece.samples) - loud[-1] <= 0.6 * RATE


def test_speech_without_a_long_pause_is_cut_in_its_longest() -> None:
    speech = clip("en-3")  # nearly six seconds, two sentences
    options = CutOptions(segment_s=4.0, min_silence_s=2.0)
    first, *_ = cut(speech, options)
    end = len(first.samples)
    around = float(np.abs(speech[end - 800 : end + 800]).max())
    assert around < 0.1 * float(np.abs(speech).max())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_without_any_pause_every_word_is_whole_in_a_piece(language: str) -> None:
    """By the synthesizer's times of the words, with what it left between them taken out."""
    data = ROOT / "tests" / "data" / "eval"
    rows = map(json.loads, (data / "words.jsonl").read_text("utf-8").splitlines())
    parts, words, position = [], [], 0
    for row in [r for r in rows if r["audio"].startswith(f"{language}-long")][:4]:
        samples, _ = soundfile.read(data / row["audio"], dtype="float32")
        for word in row["words"]:
            part = samples[int(word["start_s"] * RATE) : int(word["end_s"] * RATE)]
            words.append((position, position + len(part)))
            parts.append(part)
            position += len(part)
    pieces = cut(np.concatenate(parts), CutOptions(segment_s=12.0))
    ends = [(piece.start, piece.start + len(piece.samples)) for piece in pieces]
    assert len(pieces) > 4
    assert any(piece.overlap for piece in pieces)
    for begin, end in words:
        assert any(start <= begin and end <= last for start, last in ends)


def test_a_word_that_begins_softly_behind_a_short_pause_is_whole() -> None:
    """By the synthesizer's times again: the detector tells its beginning too late."""
    samples, _, words = joined_at(clips("Chinese"), 88.0, 0.0, spoken=True, seed=5)
    pieces = cut(samples, CutOptions())
    assert any(piece.overlap and not before.continues for before, piece in pairwise(pieces))
    assert num_whole(words, pieces) == len(words)


@pytest.mark.parametrize(
    "data",
    [
        b"ID3\4\0\0\0\0\0\0" * 1_000_000,
        b"RIFF\0\0\0\x7fWAVE" + b"JUNK\0\0\0\0" * 1_000_000,
        b"\xff\xfb" * 10_000_000,
    ],
    ids=["tags", "chunks", "headers"],
)
def test_looking_at_a_file_is_constant_work(data: bytes, decoder: AudioDecoder) -> None:
    """It is done on the event loop: calls are counted, since a clock would be others' as well."""
    num_calls = 0

    def count(*_: object) -> None:
        nonlocal num_calls
        num_calls += 1

    sys.setprofile(count)
    try:
        with contextlib.suppress(InvalidInput):
            decoder.source(data)
    finally:
        sys.setprofile(None)
    assert num_calls < 50_000
