"""From the bytes of a connection to frames at 16 kHz, as they come and in pieces of any size.

Only numpy: a process that takes audio in need not load torch. The same samples result however the
bytes are divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from predictor.errors import InvalidInput
from predictor.live.options import FRAME_SAMPLES
from predictor.types import SAMPLE_RATE_HZ, Samples

WireEncoding = Literal["pcm16", "pcmu", "pcma"]  # 16 bit little-endian, G.711 µ-law and A-law
MIN_RATE_HZ: Final = 8_000
MAX_RATE_HZ: Final = 192_000

_ZERO_CROSSINGS: Final = 32  # of the filter, on each side: flat to 7 kHz, 55 dB down from 8.2
_ROLLOFF: Final = 0.945
_KAISER_BETA: Final = 10.0
_HIGH_PASS_TAPS: Final = 511
_PHASES: Final = 512  # of a table between whose rows weights are interpolated


@dataclass(frozen=True, slots=True)
class WireFormat:
    """What the bytes are; mono."""

    encoding: WireEncoding = "pcm16"
    sample_rate_hz: int = 24_000

    def __post_init__(self) -> None:
        """Raises InvalidInput."""
        if self.encoding not in get_args(WireEncoding):
            raise InvalidInput(
                f"encoding: {self.encoding[:40]!r} is not one of pcm16, pcmu, pcma",
                field="encoding",
                value=self.encoding[:40],
                limit=list(get_args(WireEncoding)),
            )
        if not MIN_RATE_HZ <= self.sample_rate_hz <= MAX_RATE_HZ:
            raise InvalidInput(
                f"rate: {self.sample_rate_hz} is not within {MIN_RATE_HZ} and {MAX_RATE_HZ}",
                field="rate",
                value=self.sample_rate_hz,
                limit=[MIN_RATE_HZ, MAX_RATE_HZ],
            )

    @property
    def bytes_per_sample(self) -> int:
        return 2 if self.encoding == "pcm16" else 1


@dataclass(slots=True)
class Intake:
    """The bytes of one stream on their way to frames."""

    format: WireFormat
    high_pass_hz: float | None = None  # corner frequency of a filter against rumble and hum
    _rest: bytes = b""  # half a sample
    _resampler: Resampler = field(init=False)
    _high_pass: HighPass | None = field(init=False)
    _waiting: Samples = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        self._resampler = Resampler(self.format.sample_rate_hz)
        self._high_pass = None if self.high_pass_hz is None else HighPass(self.high_pass_hz)

    def feed(self, data: bytes) -> Samples:
        """Whole frames [n, 512] that are complete with these bytes."""
        data = self._rest + data if self._rest else data
        whole = len(data) // self.format.bytes_per_sample * self.format.bytes_per_sample
        self._rest = data[whole:]
        samples = self._resampler.feed(decode(data[:whole], self.format.encoding))
        if self._high_pass is not None:
            samples = self._high_pass.feed(samples)
        waiting = np.concatenate([self._waiting, samples])
        count = len(waiting) // FRAME_SAMPLES
        self._waiting = waiting[count * FRAME_SAMPLES :]
        return waiting[: count * FRAME_SAMPLES].reshape(count, FRAME_SAMPLES)

    def flush(self) -> Samples:
        """What is left of the audio, less than a frame [< 512]; the stream may go on."""
        rest, self._waiting = self._waiting, np.zeros(0, np.float32)
        return rest

    def clear(self) -> None:
        """Forget what is not a whole frame yet."""
        self._rest = b""
        self.flush()


def decode(data: bytes, encoding: WireEncoding) -> Samples:
    """Bytes of whole samples to float32 within [-1, 1)."""
    if encoding == "pcm16":
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    table = _mu_law() if encoding == "pcmu" else _a_law()
    samples: Samples = table[np.frombuffer(data, np.uint8)]
    return samples


@lru_cache(maxsize=1)
def _mu_law() -> Samples:
    """G.711 µ-law: the value of each byte."""
    code = ~np.arange(256, dtype=np.int64) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    values = np.where(code & 0x80, -magnitude, magnitude)
    return values.astype(np.float32) / np.float32(32768)


@lru_cache(maxsize=1)
def _a_law() -> Samples:
    """G.711 A-law: the value of each byte."""
    code = np.arange(256, dtype=np.int64) ^ 0x55
    exponent, mantissa = (code & 0x70) >> 4, (code & 0x0F) << 4
    small = mantissa + 8
    large = mantissa + 0x108 << np.maximum(exponent - 1, 0)
    magnitude = np.where(exponent == 0, small, large)
    values = np.where(code & 0x80, magnitude, -magnitude)
    return values.astype(np.float32) / np.float32(32768)


class Resampler:
    """One stream from some rate to 16 kHz: a windowed sinc, its weights from a table.

    Positions are whole numbers, so that hours of audio do not drift.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate = sample_rate_hz
        self._next = 0  # number of the output sample that comes next
        # A silent past, so that the first outputs have all the neighbours they look at.
        self._half = _half_width(sample_rate_hz)
        self._kept = np.zeros(self._half, np.float32)
        self._kept_from = -self._half  # number of the first input sample in `_kept`

    def feed(self, samples: Samples) -> Samples:
        """[n] at the stream's rate to what is certain of it at 16 kHz."""
        if self._rate == SAMPLE_RATE_HZ:
            return samples
        kept = np.concatenate([self._kept, samples])
        end = self._kept_from + len(kept)
        # Output i lies at input i * rate / 16000 and looks at `_half` samples on either side.
        last = (end - self._half - 1) * SAMPLE_RATE_HZ // self._rate
        numbers = np.arange(self._next, max(self._next, last + 1), dtype=np.int64)
        output = self._output(kept, numbers)
        self._next += len(numbers)
        needed = self._next * self._rate // SAMPLE_RATE_HZ - self._half + 1
        drop = min(len(kept), max(0, needed - self._kept_from))
        self._kept, self._kept_from = kept[drop:], self._kept_from + drop
        return output

    def _output(self, kept: Samples, numbers: NDArray[np.int64]) -> Samples:
        if not len(numbers):
            return np.zeros(0, np.float32)
        whole, part = np.divmod(numbers * self._rate, SAMPLE_RATE_HZ)
        first = whole - self._half + 1 - self._kept_from
        windows = sliding_window_view(kept, 2 * self._half)[first]  # [n, 2 * half]
        table = _weights(self._rate)
        row, share = np.divmod(part * _PHASES, SAMPLE_RATE_HZ)
        between = (share / SAMPLE_RATE_HZ).astype(np.float32)[:, None]
        weights = table[row] * (1 - between) + table[row + 1] * between
        output: Samples = np.einsum("ij,ij->i", windows, weights)
        return output


class HighPass:
    """A linear-phase filter at 16 kHz; its output is half a filter, 16 ms, late."""

    def __init__(self, corner_hz: float) -> None:
        cutoff = 2 * corner_hz / SAMPLE_RATE_HZ
        place = np.arange(_HIGH_PASS_TAPS) - _HIGH_PASS_TAPS // 2
        low = cutoff * np.sinc(cutoff * place) * np.hamming(_HIGH_PASS_TAPS)
        taps = -low / low.sum()
        taps[_HIGH_PASS_TAPS // 2] += 1.0
        self._taps = taps.astype(np.float32)
        self._kept = np.zeros(_HIGH_PASS_TAPS - 1, np.float32)

    def feed(self, samples: Samples) -> Samples:
        """[n] to [n]."""
        heard = np.concatenate([self._kept, samples])
        self._kept = heard[len(samples) :]
        windows = sliding_window_view(heard, _HIGH_PASS_TAPS)[: len(samples)]
        filtered: Samples = np.einsum("ij,j->i", windows, self._taps)
        return filtered


def _half_width(sample_rate_hz: int) -> int:
    """Input samples that an output looks at on either side."""
    widened = max(1.0, sample_rate_hz / SAMPLE_RATE_HZ)
    return math.ceil(_ZERO_CROSSINGS * widened / _ROLLOFF)


@lru_cache(maxsize=32)
def _weights(sample_rate_hz: int) -> Samples:
    """[phases + 1, 2 * half]: weights of an output that lies phase / phases behind a sample."""
    half = _half_width(sample_rate_hz)
    cutoff = _ROLLOFF * min(1.0, SAMPLE_RATE_HZ / sample_rate_hz)  # of the input's Nyquist rate
    phases = np.arange(_PHASES + 1)[:, None] / _PHASES
    distance = np.arange(-half + 1, half + 1)[None, :] - phases
    inside = np.clip(1 - np.square(distance / half), 0, None)
    window = np.i0(_KAISER_BETA * np.sqrt(inside)) / np.i0(_KAISER_BETA)
    weights = cutoff * np.sinc(cutoff * distance) * window * (np.abs(distance) <= half)
    weights /= weights.sum(axis=1, keepdims=True)
    result: Samples = weights.astype(np.float32)
    return result
