"""Filters against scipy's design of the same filter, BS.1770's reference tone, and torchaudio."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import signal
from torchaudio import functional as F

from predictor.audio.filters import (
    Biquads,
    high_pass_coefficients,
    limit_peak,
    loudness,
    normalize_loudness,
    without_leaks,
)
from predictor.types import Samples


def tone(frequency_hz: float, peak: float, duration_s: float = 3.0) -> Samples:
    t = np.arange(int(16_000 * duration_s)) / 16_000
    return (peak * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32)


def high_pass(samples: Samples, cutoff_hz: float) -> Samples:
    return Biquads(high_pass_coefficients(cutoff_hz)).run(samples)


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


@pytest.mark.parametrize("cutoff_hz", [20.0, 80.0, 300.0])
def test_the_high_pass_is_a_butterworth(cutoff_hz: float) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    sections = signal.butter(2, cutoff_hz, "highpass", fs=16_000, output="sos")
    expected = signal.sosfilt(sections, noise.astype(np.float64))
    assert np.abs(high_pass(noise, cutoff_hz) - expected).max() < 1e-6


def test_hum_goes_and_speech_stays() -> None:
    assert rms(high_pass(tone(25, 0.5), 100)[16_000:]) < 0.1 * rms(tone(25, 0.5))
    assert rms(high_pass(tone(1000, 0.5), 100)) == pytest.approx(rms(tone(1000, 0.5)), 0.01)
    offset = np.full(48_000, 0.5, np.float32)
    assert np.abs(high_pass(offset, 100)[16_000:]).max() < 1e-3


def test_a_filter_hears_one_signal_in_blocks() -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    filters = Biquads(high_pass_coefficients(80.0))
    blocks = [filters.run(noise[start : start + 777]) for start in range(0, 32_000, 777)]
    assert np.concatenate(blocks) == pytest.approx(high_pass(noise, 80.0), abs=1e-7)


@pytest.mark.parametrize("peak_db", [0.0, -20.0, -40.0])
def test_loudness_of_the_reference_tone(peak_db: float) -> None:
    # BS.1770: a sine of 997 Hz at full scale on one channel has -3.01 LKFS.
    measured = loudness(tone(997, 10 ** (peak_db / 20)))
    assert measured == pytest.approx(peak_db - 3.01, abs=0.1)


@pytest.mark.parametrize("peak", [0.9, 0.05, 0.01])
def test_recordings_are_brought_to_the_target(peak: float) -> None:
    out = normalize_loudness(tone(997, peak), -23.0)
    assert out.dtype == np.float32
    # The same tone again: -23 LUFS is a peak of -23 + 3.01 dB.
    assert np.abs(out).max() == pytest.approx(10 ** ((-23 + 3.01) / 20), rel=0.02)


def test_pauses_do_not_count_for_loudness() -> None:
    talk = np.concatenate([tone(997, 0.1), np.zeros(96_000, np.float32), tone(997, 0.1)])
    assert loudness(talk) == pytest.approx(loudness(tone(997, 0.1)), abs=0.3)


def test_loudness_never_clips_and_never_lifts_noise_to_speech() -> None:
    spiky = tone(997, 0.01)
    spiky[100] = 0.9
    assert np.abs(normalize_loudness(spiky, -5.0)).max() <= 1.0
    faint = np.random.default_rng(2).standard_normal(48_000).astype(np.float32) * 1e-3
    lifted = normalize_loudness(faint, -14.0)
    assert 20 * math.log10(rms(lifted) / rms(faint)) == pytest.approx(30.0, abs=0.1)


@pytest.mark.parametrize("size", [1, 160, 6_399, 48_000])
def test_silence_and_snippets_stay_as_they_are(size: int) -> None:
    silence = np.zeros(size, np.float32)
    assert np.array_equal(normalize_loudness(silence, -23.0), silence)
    if size < 6_400:
        snippet = tone(440, 0.3)[:size]
        assert np.array_equal(normalize_loudness(snippet, -23.0), snippet)


@pytest.mark.parametrize("seed", range(3))
def test_loudness_is_torchaudios(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.uniform(0.001, 0.3, 40), 1_600)
    noise = (rng.standard_normal(64_000) * steps).clip(-1, 1).astype(np.float32)
    theirs = F.loudness(torch.from_numpy(noise[None].astype(np.float64) / 4), 16_000)
    assert loudness(noise) == pytest.approx(float(theirs) + 20 * math.log10(4), abs=0.01)


def test_peaks_beyond_one_scale_the_whole() -> None:
    loud = tone(440, 2.5)
    out = limit_peak(loud)
    assert np.abs(out).max() <= 1.0
    assert out == pytest.approx(loud / np.abs(loud).max(), abs=1e-6)
    quiet = tone(440, 0.9)
    assert limit_peak(quiet) is quiet


def test_what_leaks_from_the_other_channel_is_left_out() -> None:
    """A voice on each side of a call, each 34 dB lower on the other; then both at once."""
    voice, other = tone(440, 0.4, 1.0), tone(300, 0.1, 1.0)
    silence = np.zeros_like(voice)
    left = np.concatenate([voice, 0.02 * other, silence, voice])
    right = np.concatenate([0.02 * voice, other, silence, other])
    heard = without_leaks(np.stack([left, right]))
    n = len(voice)
    expected_left = np.concatenate([voice, silence, silence, voice])
    expected_right = np.concatenate([silence, other, silence, other])
    np.testing.assert_array_equal(heard, np.stack([expected_left, expected_right]))
    assert without_leaks(heard[:1]) is not None
    assert without_leaks(np.zeros((2, 0), np.float32)).shape == (2, 0)
    assert heard.shape == (2, 4 * n)
