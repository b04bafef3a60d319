"""Blocks of a recording, as a codec gives them, to 16 kHz samples of each channel that is heard.

Everything is a stream: a day of audio needs as much memory as a minute. Limits are enforced on what
was really decoded, whatever a header says.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

from predictor.audio.bounds import check_channels, check_sample_rate, too_long
from predictor.audio.filters import Biquads, high_pass_coefficients
from predictor.audio.limits import DURATION_SLACK_S, AudioLimits, AudioOptions
from predictor.errors import AudioError, InvalidInput
from predictor.types import SAMPLE_RATE_HZ, Samples

Block = NDArray[np.float32]  # [n, channels]

_QUALITY: Final = "HQ"  # flat to 7.3 kHz, 50 dB down at 7.9 and 130 dB from 8.2 kHz on
_MIN_GAP_S: Final = 0.1  # shorter ones are rounding of time stamps
_MAX_GAP_S: Final = 3600.0  # longer ones are broken time stamps
_GAP_BLOCK: Final = 60 * SAMPLE_RATE_HZ
# Of two channels of opposite polarity nothing is left; of two that have nothing to do with each
# other the mean has the sum of their powers over 4.
_CANCELLED: Final = 0.05
_AUDIBLE: Final = 1e-7  # -70 dBFS: below, nothing is there to cancel


class Track:
    """Takes blocks in order; gives [channels heard][n] at 16 kHz."""

    def __init__(self, limits: AudioLimits, options: AudioOptions, field: str) -> None:
        self._limits = limits
        self._options = options
        self._field = field
        self._num_values = 0
        self._rate_hz = 0
        self._num_channels = 0  # of the recording, as its first block has it
        self._num_at_rate = 0  # samples taken since the rate last changed
        self._begun_at = 0  # samples given before it did
        self._resamplers: list[soxr.ResampleStream] = []
        self._high_passes: list[Biquads] = []
        self._taken: int | None = None  # the channel heard instead of a mean that cancels
        self.num_given = 0  # samples of each channel at 16 kHz, gaps included
        self.notes: list[str] = []

    @property
    def num_heard(self) -> int:
        """Channels that are given, 0 before the first block."""
        if self._options.channel == "separate":
            return self._num_channels
        return min(1, self._num_channels)

    @property
    def position_s(self) -> float:
        """Where in the recording the next block begins."""
        return (self._begun_at + self._num_expected) / SAMPLE_RATE_HZ

    @property
    def _num_expected(self) -> int:
        if self._rate_hz == 0:
            return 0
        return ceil(Fraction(self._num_at_rate * SAMPLE_RATE_HZ, self._rate_hz))

    def write(self, block: Block, rate_hz: int, at_s: float | None = None) -> Iterator[Samples]:
        """Takes `block`, which begins at `at_s` where the container keeps time.

        Yields [channels, n]. Raises AudioTooLong, AudioError, InvalidInput.
        """
        self._check(block, rate_hz)
        if self._num_channels == 0:
            self._set_channels(block.shape[1])
        if at_s is not None and _MIN_GAP_S < at_s - self.position_s < _MAX_GAP_S:
            yield from self._gap(at_s)
        if rate_hz != self._rate_hz:
            yield from self._flush()
            self._begin(rate_hz)
        heard = self._heard(block)
        self._num_at_rate += block.shape[0]
        if self.position_s > self._limits.max_duration_s + DURATION_SLACK_S:
            raise too_long(self._limits, self._field)
        yield from self._give(self._all_resampled(heard))

    def finish(self) -> Iterator[Samples]:
        """The rest that the resamplers hold. Raises AudioError when there was nothing at all."""
        yield from self._flush()
        if self.num_given == 0:
            raise AudioError(
                f"{self._field}: holds no samples", field=self._field, value=0, limit=1
            )

    def _check(self, block: Block, rate_hz: int) -> None:
        check_sample_rate(rate_hz, self._limits, self._field)
        check_channels(block.shape[1], self._limits, self._field)
        self._num_values += block.size
        if self._num_values > self._limits.max_decoded_values:
            raise AudioError(
                f"{self._field}: decodes to more than {self._limits.max_decoded_values} values "
                "(samples times channels)",
                field=self._field,
                value=f">{self._limits.max_decoded_values}",
                limit=self._limits.max_decoded_values,
            )
        finite = np.isfinite(block)
        if not finite.all():  # all at once: to go through rows of two or so takes twenty times that
            at_s = self.position_s + float(np.argmin(finite.all(axis=1))) / rate_hz
            raise AudioError(
                f"{self._field}: NaN or infinite sample near {at_s:.2f} s",
                field=self._field,
                value="NaN or infinity",
                limit="finite numbers",
            )

    def _set_channels(self, num_channels: int) -> None:
        self._num_channels = num_channels
        if self._options.high_pass_hz is not None:
            coefficients = high_pass_coefficients(self._options.high_pass_hz)
            self._high_passes = [Biquads(coefficients) for _ in range(self.num_heard)]

    def _begin(self, rate_hz: int) -> None:
        self._rate_hz, self._num_at_rate, self._begun_at = rate_hz, 0, self.num_given
        if rate_hz != SAMPLE_RATE_HZ:
            self._resamplers = [
                soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality=_QUALITY)
                for _ in range(self.num_heard)
            ]

    def _all_resampled(self, heard: Samples) -> Samples:
        """[channels heard, n] at the block's rate to the same at 16 kHz."""
        if not self._resamplers and len(heard) == 1:
            return np.ascontiguousarray(heard)  # as it lies: most recordings pass through here
        return np.stack([self._resampled(i, c) for i, c in enumerate(heard)])

    def _resampled(self, index: int, samples: Samples, *, is_last: bool = False) -> Samples:
        if not self._resamplers:
            return np.ascontiguousarray(samples)
        resampled: Samples = self._resamplers[index].resample_chunk(
            np.ascontiguousarray(samples), last=is_last
        )
        return resampled

    def _flush(self) -> Iterator[Samples]:
        """What the resamplers still hold, cut or padded to the exact length."""
        if self._resamplers:
            nothing = np.zeros(0, np.float32)
            rests = [
                self._resampled(i, nothing, is_last=True) for i in range(len(self._resamplers))
            ]
            missing = self._begun_at + self._num_expected - self.num_given
            self._resamplers = []
            yield from self._give(
                np.stack([np.pad(r[:missing], (0, max(0, missing - len(r)))) for r in rests])
            )
        self._begun_at, self._num_at_rate, self._rate_hz = self.num_given, 0, 0

    def _gap(self, at_s: float) -> Iterator[Samples]:
        """Silence up to `at_s`, where a container says that nothing was recorded."""
        rate_hz = self._rate_hz
        yield from self._flush()
        if at_s > self._limits.max_duration_s + DURATION_SLACK_S:
            raise too_long(self._limits, self._field)
        missing = round(at_s * SAMPLE_RATE_HZ) - self.num_given
        for start in range(0, missing, _GAP_BLOCK):
            count = min(_GAP_BLOCK, missing - start)
            yield from self._give(np.zeros((self.num_heard, count), np.float32))
        self._begun_at = self.num_given
        if rate_hz:
            self._begin(rate_hz)

    def _give(self, samples: Samples) -> Iterator[Samples]:
        if samples.shape[1] == 0:
            return
        self.num_given += samples.shape[1]
        if self._high_passes:
            samples = np.stack([f.run(c) for f, c in zip(self._high_passes, samples, strict=True)])
        yield samples

    def _heard(self, block: Block) -> Samples:
        """[n, channels] to [channels heard, n]."""
        channel, num_channels = self._options.channel, block.shape[1]
        if channel == "separate":
            if num_channels != self._num_channels:  # the count changes in the middle
                block = np.repeat(block.mean(axis=1, keepdims=True), self._num_channels, axis=1)
            return block.T
        if num_channels == 1:
            return block.T
        if channel == "mix":
            return self._mean(block)[None]
        if channel >= num_channels:
            raise InvalidInput(
                f"{self._field}: channel {channel} was asked for, the audio has "
                f"{num_channels} channels",
                field=self._field,
                value=num_channels,
                limit=channel + 1,
            )
        return block[:, channel][None]

    def _mean(self, block: Block) -> Samples:
        """[n], or the loudest channel from the block on in which the mean cancels."""
        mean = _mean_of_channels(block)
        if self._taken is None:
            powers = np.array([_power(channel) for channel in block.T])
            expected = powers.sum() / block.shape[1] ** 2
            left = _power(mean)
            if powers.max() < _AUDIBLE or left >= _CANCELLED * expected:
                return mean
            self._taken = int(np.argmax(powers))
            self.notes.append(
                f"the channels are of opposite polarity and their mean is silence: "
                f"channel {self._taken} is heard"
            )
        return block[:, min(self._taken, block.shape[1] - 1)]


def _mean_of_channels(block: Block) -> Samples:
    """[n, channels] to [n], channel by channel: rows are too short for numpy to go along them."""
    mean: Samples = block[:, 0].copy()
    for channel in block.T[1:]:
        mean += channel
    mean /= block.shape[1]
    return mean


def _power(samples: Samples) -> float:
    return float(np.dot(samples, samples)) / max(1, len(samples))
