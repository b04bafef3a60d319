"""Resampling against sines, whose right answer is known at every rate."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.audio.resample import rate_ratios, resample, widened

COMMON = [8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400,
          192_000]  # fmt: skip
ODD = [44_056, 47_952, 8_001, 15_999, 16_001, 31_999, 191_999]


def sine(frequency_hz: float, rate: int, duration_s: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(rate * duration_s)) / rate).astype(
        np.float32
    )


@pytest.mark.parametrize("rate", COMMON + ODD)
def test_what_can_be_heard_stays_as_it_was(rate: int) -> None:
    for frequency in (100.0, 1000.0, 3300.0):
        out = resample(sine(frequency, rate, 1.0), rate)
        assert out.dtype == np.float32
        middle = slice(400, 15_600)
        drift = 0.0 if rate in COMMON else 2 * np.pi * frequency * 5e-6  # radians in this second
        assert np.abs(out[middle] - sine(frequency, 16_000, 1.0)[middle]).max() < 0.003 + drift


@pytest.mark.parametrize("rate", [44_100, 44_056, 48_000, 192_000, 47_999])
def test_what_would_alias_is_gone(rate: int) -> None:
    for frequency in (8_500.0, 10_000.0, 15_000.0, 21_000.0):
        out = resample(sine(frequency, rate, 1.0), rate)[400:15_600]
        assert np.sqrt(np.mean(np.square(out))) < 0.001  # 57 dB below the sine


@given(rate=st.integers(8_000, 192_000), size=st.integers(0, 5_000))
@settings(max_examples=60, deadline=None)
def test_length_at_any_rate(rate: int, size: int) -> None:
    assert len(resample(np.zeros(size, np.float32), rate)) == ceil(size * 16_000 / rate)


@given(rate=st.integers(8_000, 192_000))
@settings(max_examples=200, deadline=None)
def test_kernels_are_small_and_rates_right_to_five_in_a_million(rate: int) -> None:
    ratios = rate_ratios(rate)
    product = Fraction(1)
    for ratio in ratios:
        product *= ratio
        assert ratio.denominator * ratio.numerator <= 1_000_000
    assert abs(product / Fraction(rate, 16_000) - 1) <= 5e-6
    if rate in COMMON:
        assert ratios == (Fraction(rate, 16_000),)


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100, 48_000])
def test_blocks_and_wide_kernels_equal_one_plain_pass(rate: int) -> None:
    noise = np.random.default_rng(0).standard_normal(rate * 45).astype(np.float32)
    plain = widened(Fraction(rate, 16_000), 1)(torch.from_numpy(noise)).numpy()
    assert np.abs(resample(noise, rate) - plain).max() < 1e-5


def test_a_long_recording_at_an_odd_rate_does_not_drift() -> None:
    clicks = np.zeros(44_056 * 300, np.float32)
    clicks[:: 44_056 * 10] = 1.0
    out = resample(clicks, 44_056)
    peaks = [int(np.argmax(np.abs(out[max(0, at - 80) : at + 80]))) + max(0, at - 80)
             for at in range(0, len(out), 160_000)]  # fmt: skip
    assert peaks == pytest.approx(list(range(0, len(out), 160_000)), abs=24)  # 1.5 ms in 5 minutes
