"""What comes in at another rate is heard as it was: flat, without aliases, block by block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchaudio import functional as F

from predictor.audio.limits import AudioLimits, AudioOptions
from predictor.audio.track import Track
from predictor.types import Samples


def resample(samples: Samples, rate_hz: int, block: int = 65_536) -> Samples:
    track = Track(AudioLimits(max_sample_rate_hz=384_000), AudioOptions(), "audio")
    parts = []
    for start in range(0, len(samples), block):
        parts += list(track.write(samples[start : start + block, None], rate_hz))
    parts += list(track.finish())
    return np.concatenate([part[0] for part in parts])


def tone(frequency_hz: float, rate_hz: int, duration_s: float = 2.0) -> Samples:
    t = np.arange(round(rate_hz * duration_s)) / rate_hz
    return np.sin(2 * np.pi * frequency_hz * t).astype(np.float32)


def level_db(samples: Samples) -> float:
    middle = samples[4_000:-4_000].astype(np.float64)
    return 10 * float(np.log10(2 * np.mean(np.square(middle)) + 1e-20))


RATES = [8_000, 11_025, 22_050, 24_000, 32_000, 44_056, 44_100, 47_999, 48_000, 96_000, 191_999]


@pytest.mark.parametrize("rate", RATES)
def test_the_speech_band_is_flat(rate: int) -> None:
    for frequency in (100, 1_000, 3_000, 7_000):
        if frequency < 0.44 * rate:
            assert level_db(resample(tone(frequency, rate), rate)) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate > 18_000])
def test_nothing_above_folds_into_it(rate: int) -> None:
    for frequency in (8_200, 9_000, 10_500):
        assert level_db(resample(tone(frequency, rate), rate)) < -100


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_it_is_the_sound_that_torchaudio_gives(rate: int) -> None:
    """Another library's filter of the same band, on noise that neither of the two cuts off."""
    noise = np.random.default_rng(3).standard_normal(2 * rate).astype(np.float32) * 0.1
    spectrum = np.fft.rfft(noise)
    spectrum[int(0.4 * min(rate, 16_000)) * 2 :] = 0
    noise = np.fft.irfft(spectrum, len(noise)).astype(np.float32)
    theirs = F.resample(
        torch.from_numpy(noise), rate, 16_000, lowpass_filter_width=64, rolloff=0.97,
        resampling_method="sinc_interp_kaiser", beta=14.0,
    ).numpy()  # fmt: skip
    ours = resample(noise, rate)
    assert len(ours) == len(theirs)
    assert np.abs(ours - theirs)[400:-400].max() < 2e-3


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 191_999])
@pytest.mark.parametrize("num_samples", [1, 7, 1_000, 50_001])
def test_lengths_and_blocks(rate: int, num_samples: int) -> None:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, num_samples).astype(np.float32)
    whole = resample(samples, rate)
    assert len(whole) == -(-num_samples * 16_000 // rate)
    assert resample(samples, rate, block=333) == pytest.approx(whole, abs=1e-5)
