"""What may be done to a recording besides resampling: high-pass, loudness, peak. 16 kHz mono.

The recursive filters are FFmpeg's biquads in float64, through PyAV, which decoders need anyway.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.filter import Graph

from predictor.types import SAMPLE_RATE_HZ, Samples

Coefficients = tuple[float, float, float, float, float]  # b0, b1, b2, a1, a2; a0 is 1

_MAX_GAIN_DB: Final = 30.0  # more would turn the noise of an empty room into speech level
_BLOCK_S: Final = 0.4  # one gating block of BS.1770; every 0.1 s one begins
_ABSOLUTE_GATE_LUFS: Final = -70.0
_RELATIVE_GATE_LU: Final = -10.0
_OFFSET_LUFS: Final = -0.691
_LEAK: Final = 10 ** (-30 / 10)  # of the loudest channel's power: what is less is heard from there
_LEAK_FRAME: Final = SAMPLE_RATE_HZ // 50


class Biquads:
    """Second-order sections one after the other, over a signal that comes in blocks."""

    def __init__(self, *sections: Coefficients) -> None:
        self._graph = Graph()
        source = self._graph.add_abuffer(
            sample_rate=SAMPLE_RATE_HZ, format="dbl", layout="mono", time_base=Fraction(1, 16_000)
        )
        last = source
        for b0, b1, b2, a1, a2 in sections:
            names = {"b0": b0, "b1": b1, "b2": b2, "a0": 1.0, "a1": a1, "a2": a2}
            arguments = ":".join(f"{name}={value:.17g}" for name, value in names.items())
            section = self._graph.add("biquad", f"{arguments}:precision=f64")
            last.link_to(section)
            last = section
        last.link_to(self._graph.add("abuffersink"))
        self._graph.configure()
        self._num_samples = 0

    def run(self, samples: Samples) -> Samples:
        """The next samples [n] filtered, [n]."""
        if len(samples) == 0:
            return samples
        wide = np.ascontiguousarray(samples, dtype=np.float64)[None]
        frame = av.AudioFrame.from_ndarray(wide, "dbl", "mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts, frame.time_base = self._num_samples, Fraction(1, SAMPLE_RATE_HZ)
        self._num_samples += len(samples)
        self._graph.push(frame)
        out: Samples = np.concatenate(
            [np.zeros(0), *(f.to_ndarray().reshape(-1) for f in self._pulled())]
        ).astype(np.float32)
        assert len(out) == len(samples)
        return out

    def _pulled(self) -> list[av.AudioFrame]:
        frames = []
        while True:
            try:
                frames.append(self._graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return frames


def high_pass_coefficients(cutoff_hz: float) -> Coefficients:
    """Second-order Butterworth high-pass, 3 dB down at `cutoff_hz`; removes hum and rumble."""
    w = 2 * math.pi * cutoff_hz / SAMPLE_RATE_HZ
    alpha = math.sin(w) / math.sqrt(2)
    half = (1 + math.cos(w)) / 2
    b, a = (half, -2 * half, half), (1 + alpha, -2 * math.cos(w), 1 - alpha)
    return (b[0] / a[0], b[1] / a[0], b[2] / a[0], a[1] / a[0], a[2] / a[0])


def limit_peak(samples: Samples) -> Samples:
    """Samples beyond ±1 (float files, resampled full-scale square waves) scale the whole piece
    so that its loudest sample is ±1: what was not clipped before is not clipped here."""
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    return samples if peak <= 1.0 else samples / np.float32(peak)


def loudness(samples: Samples) -> float:
    """Integrated loudness in LUFS (BS.1770); -inf for silence and for less than 0.4 s."""
    block, step = int(_BLOCK_S * SAMPLE_RATE_HZ), int(_BLOCK_S * SAMPLE_RATE_HZ / 4)
    if len(samples) < block or not samples.any():
        return -math.inf
    weighted = Biquads(*_k_weighting()).run(samples).astype(np.float64)
    sums = np.concatenate(([0.0], np.cumsum(np.square(weighted))))
    starts = np.arange(0, len(samples) - block + 1, step)
    power = (sums[starts + block] - sums[starts]) / block
    levels = _OFFSET_LUFS + 10 * np.log10(np.maximum(power, 1e-30))
    heard = power[levels >= _ABSOLUTE_GATE_LUFS]
    if len(heard) == 0:
        return -math.inf
    gate = _OFFSET_LUFS + 10 * math.log10(heard.mean()) + _RELATIVE_GATE_LU
    spoken = power[levels > max(gate, _ABSOLUTE_GATE_LUFS)]
    return _OFFSET_LUFS + 10 * math.log10(spoken.mean()) if len(spoken) else -math.inf


def _k_weighting() -> tuple[Coefficients, Coefficients]:
    """BS.1770's shelf (the head) and high-pass (RLB) at 16 kHz."""
    return _shelf(1500.0, 4.0, 1 / math.sqrt(2)), _rlb(38.0, 0.5)


def _shelf(centre_hz: float, gain_db: float, q: float) -> Coefficients:
    a = 10 ** (gain_db / 40)
    w = 2 * math.pi * centre_hz / SAMPLE_RATE_HZ
    alpha, cos, root = math.sin(w) / 2 / q, math.cos(w), 2 * math.sqrt(a)
    a0 = (a + 1) - (a - 1) * cos + root * alpha
    return (
        a * ((a + 1) + (a - 1) * cos + root * alpha) / a0,
        -2 * a * ((a - 1) + (a + 1) * cos) / a0,
        a * ((a + 1) + (a - 1) * cos - root * alpha) / a0,
        2 * ((a - 1) - (a + 1) * cos) / a0,
        ((a + 1) - (a - 1) * cos - root * alpha) / a0,
    )


def _rlb(cutoff_hz: float, q: float) -> Coefficients:
    w = 2 * math.pi * cutoff_hz / SAMPLE_RATE_HZ
    alpha, cos = math.sin(w) / 2 / q, math.cos(w)
    a0, half = 1 + alpha, (1 + cos) / 2
    return (half / a0, -2 * half / a0, half / a0, -2 * cos / a0, (1 - alpha) / a0)


def normalize_loudness(samples: Samples, target_lufs: float) -> Samples:
    """Scale to `target_lufs`, by 30 dB at most and never past ±1; silence stays as it is."""
    measured = loudness(samples)
    if measured == -math.inf:
        return samples
    gain = 10 ** (min(target_lufs - measured, _MAX_GAIN_DB) / 20)
    return samples * np.float32(min(gain, 1.0 / float(np.abs(samples).max())))


def without_leaks(samples: Samples) -> Samples:
    """Channels [channels, n] that are each heard alone, without what others leak into them.

    Wherever a channel is 30 dB below the loudest one it is silent: otherwise a speaker would be
    heard a second time through the other's microphone.
    """
    num_channels, size = samples.shape
    if num_channels < 2 or size == 0:
        return samples
    frames = -(-size // _LEAK_FRAME)
    padded = np.zeros((num_channels, frames * _LEAK_FRAME), np.float32)
    padded[:, :size] = samples
    shaped = padded.reshape(num_channels, frames, _LEAK_FRAME)
    power = np.square(shaped, dtype=np.float64).mean(axis=2)
    shaped[power < _LEAK * power.max(axis=0)] = 0
    return padded[:, :size]
