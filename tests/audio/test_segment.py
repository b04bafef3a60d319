"""Cuts: every sample once, no piece too long, each cut where it is quietest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.audio.cut import split
from predictor.types import Samples


def noise(num_samples: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


@given(
    duration_s=st.floats(0, 40),
    max_segment_s=st.floats(0.5, 12),
    search_s=st.floats(0, 8),
    loudness=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=200, deadline=None)
def test_pieces_cover_everything_once(
    duration_s: float, max_segment_s: float, search_s: float, loudness: float
) -> None:
    samples = noise(int(duration_s * 16_000)) * np.float32(loudness)
    pieces = split(samples, max_segment_s, search_s)
    position = 0
    for start, end in pieces:
        assert start == position
        assert 0 < end - start <= max_segment_s * 16_000
        position = end
    assert position == len(samples)
    if len(pieces) > 1:
        last = pieces[-1][1] - pieces[-1][0]
        assert last >= min(16_000, int(max_segment_s * 16_000) // 4)


@given(pause_s=st.floats(25.2, 29.7), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_cut_falls_into_the_pause(pause_s: float, seed: int) -> None:
    samples = noise(40 * 16_000, seed)
    start, end = int(pause_s * 16_000), int(pause_s * 16_000) + 4_000  # 250 ms
    samples[start:end] *= np.float32(0.01)
    first, second = split(samples, 30.0)
    assert start <= first[1] == second[0] <= min(end, 30 * 16_000)


def test_no_other_cut_would_have_been_quieter() -> None:
    samples = noise(20 * 16_000) * np.repeat(noise(200, seed=3) + 0.5, 1600)
    (_, cut), *_ = split(samples, 10.0, search_s=5.0)
    energy = np.square(samples.astype(np.float64))
    sums = np.concatenate(([0.0], np.cumsum(energy)))

    def around(at: int) -> float:
        return float(sums[at + 800] - sums[at - 800])

    tried = range(5 * 16_000, 10 * 16_000 + 1, 160)
    assert around(cut) == pytest.approx(min(around(at) for at in tried))


def test_silence_is_cut_in_the_middle_of_its_longest_run() -> None:
    samples = noise(20 * 16_000)
    samples[6 * 16_000 : 6 * 16_000 + 8_000] = 0
    samples[8 * 16_000 : 9 * 16_000] = 0
    (_, cut), *_ = split(samples, 10.0)
    assert cut == pytest.approx(8.5 * 16_000, abs=320)


def test_what_is_short_enough_is_one_piece() -> None:
    assert split(noise(0), 30.0) == []
    assert split(noise(1), 30.0) == [(0, 1)]
    assert split(noise(30 * 16_000), 30.0) == [(0, 30 * 16_000)]


def test_the_rest_is_no_snippet() -> None:
    pieces = split(noise(30 * 16_000 + 1), 30.0, search_s=0.0)
    assert [end - start for start, end in pieces] == [29 * 16_000 + 1, 16_000]


def test_pieces_of_almost_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"segment_s=0\.001"):
        split(noise(100), 0.001)
