"""Collects decoded blocks as one mono signal and enforces the limits on what was really decoded."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from predictor.audio.limits import DURATION_SLACK_S, AudioLimits
from predictor.errors import AudioError, AudioTooLong, InvalidInput


def check_sample_rate(sample_rate_hz: int, limits: AudioLimits, field: str) -> None:
    """Raises InvalidInput for a rate outside the limits."""
    low, high = limits.min_sample_rate_hz, limits.max_sample_rate_hz
    if not low <= sample_rate_hz <= high:
        raise InvalidInput(
            f"{field}: sample rate {sample_rate_hz} Hz is outside {low} to {high} Hz",
            field=field,
            value=sample_rate_hz,
            limit=f"{low}..{high}",
        )


def check_channels(num_channels: int, limits: AudioLimits, field: str) -> None:
    """Raises InvalidInput for too many channels, AudioError for none."""
    if num_channels < 1:
        raise AudioError(f"{field}: no audio channel", field=field, value=num_channels, limit=1)
    if num_channels > limits.max_channels:
        raise InvalidInput(
            f"{field}: {num_channels} channels are more than {limits.max_channels}",
            field=field,
            value=num_channels,
            limit=limits.max_channels,
        )


def too_long(limits: AudioLimits, field: str, duration_s: float | None = None) -> AudioTooLong:
    """The error for a recording past the limit; without a duration, decoding stopped there."""
    value = (
        f"{duration_s:.2f}" if duration_s is not None else f"more than {limits.max_duration_s:g}"
    )
    return AudioTooLong(
        f"{field}: {value} s of audio exceed the limit of {limits.max_duration_s:g} s",
        field=field,
        value=duration_s if duration_s is not None else f">{limits.max_duration_s:g}",
        limit=limits.max_duration_s,
    )


def mix_down(block: NDArray[np.float32], channel: int | None, field: str) -> NDArray[np.float32]:
    """[n, channels] to [n]: the mean, or the chosen channel. Mono has nothing to choose from."""
    num_channels = block.shape[1]
    if num_channels == 1:
        return block[:, 0]
    if channel is None:
        mean: NDArray[np.float32] = block.mean(axis=1, dtype=np.float32)
        return mean
    if channel >= num_channels:
        raise InvalidInput(
            f"{field}: channel {channel} was asked for, the audio has {num_channels} channels",
            field=field,
            value=num_channels,
            limit=channel + 1,
        )
    return block[:, channel]


class MonoWriter:
    """Takes blocks [n, channels] and writes them to `out` as mono float32, up to the limits."""

    def __init__(self, out: BinaryIO, limits: AudioLimits, channel: int | None, field: str) -> None:
        self._out = out
        self._limits = limits
        self._channel = channel
        self._field = field
        self._num_values = 0
        self.num_samples = 0
        self.sample_rate_hz = 0

    def open(self, sample_rate_hz: int, num_channels: int) -> None:
        """What the header says, checked before the first block. Raises InvalidInput, AudioError."""
        check_sample_rate(sample_rate_hz, self._limits, self._field)
        check_channels(num_channels, self._limits, self._field)
        self.sample_rate_hz = sample_rate_hz

    def write(self, block: NDArray[np.float32]) -> None:
        """Add `block` [n, channels]. Raises AudioTooLong, InvalidInput or AudioError."""
        check_channels(block.shape[1], self._limits, self._field)
        self.num_samples += block.shape[0]
        self._num_values += block.size
        longest_s = self._limits.max_duration_s + DURATION_SLACK_S
        if self.num_samples > longest_s * self.sample_rate_hz:
            raise too_long(self._limits, self._field)
        if self._num_values > self._limits.max_decoded_values:
            raise AudioError(
                f"{self._field}: decodes to more than {self._limits.max_decoded_values} values "
                "(samples times channels)",
                field=self._field,
                value=f">{self._limits.max_decoded_values}",
                limit=self._limits.max_decoded_values,
            )
        mono = mix_down(block, self._channel, self._field)
        self._out.write(np.ascontiguousarray(mono).data)
