"""What may be done to a recording besides resampling: high-pass, loudness, peak. 16 kHz mono.

torch is imported where it is used: no recording needs it unless asked for.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from predictor.audio.limits import AudioOptions
from predictor.types import SAMPLE_RATE_HZ, Samples

_MAX_GAIN_DB: Final = 30.0  # more would turn the noise of an empty room into speech level
_MIN_LOUDNESS_S: Final = 0.4  # one gating block of BS.1770
_HEADROOM: Final = 0.25  # torchaudio's filters clamp to ±1; the K-weighting amplifies by up to 4 dB


def apply_filters(samples: Samples, options: AudioOptions) -> Samples:
    """[n] to [n] within [-1, 1]: the high-pass, then the loudness, if asked for."""
    samples = limit_peak(samples)
    if options.high_pass_hz is not None:
        samples = limit_peak(high_pass(samples, options.high_pass_hz))
    if options.loudness_lufs is not None:
        samples = normalize_loudness(samples, options.loudness_lufs)
    return samples


def limit_peak(samples: Samples) -> Samples:
    """Samples beyond ±1 (float files, resampled full-scale square waves) scale the whole recording
    so that its loudest sample is ±1: what was not clipped before is not clipped here."""
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    return samples if peak <= 1.0 else samples / np.float32(peak)


def high_pass(samples: Samples, cutoff_hz: float) -> Samples:
    """Second-order Butterworth high-pass, 3 dB down at `cutoff_hz`; removes hum and rumble."""
    import torch
    from torchaudio import functional as F

    w = 2 * math.pi * cutoff_hz / SAMPLE_RATE_HZ
    alpha = math.sin(w) / math.sqrt(2)
    a = torch.tensor([1 + alpha, -2 * math.cos(w), 1 - alpha], dtype=torch.float64)
    half = (1 + math.cos(w)) / 2
    b = torch.tensor([half, -2 * half, half], dtype=torch.float64)
    # In float64: at low cutoffs the poles lie so near to 1 that float32 would add noise.
    filtered = F.lfilter(torch.from_numpy(samples.astype(np.float64)), a, b, clamp=False)
    high: Samples = filtered.numpy().astype(np.float32)
    return high


def loudness(samples: Samples) -> float:
    """Integrated loudness in LUFS (BS.1770); -inf for silence and for less than 0.4 s."""
    if len(samples) < _MIN_LOUDNESS_S * SAMPLE_RATE_HZ or not samples.any():
        return -math.inf
    import torch
    from torchaudio import functional as F

    scaled = torch.from_numpy(samples.astype(np.float64) * _HEADROOM)[None]
    measured = float(F.loudness(scaled, SAMPLE_RATE_HZ))
    return measured - 20 * math.log10(_HEADROOM) if math.isfinite(measured) else -math.inf


def normalize_loudness(samples: Samples, target_lufs: float) -> Samples:
    """Scale to `target_lufs`, by 30 dB at most and never past ±1; silence stays as it is."""
    measured = loudness(samples)
    if measured == -math.inf:
        return samples
    gain = 10 ** (min(target_lufs - measured, _MAX_GAIN_DB) / 20)
    return samples * np.float32(min(gain, 1.0 / float(np.abs(samples).max())))
