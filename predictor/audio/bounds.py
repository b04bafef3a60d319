"""The limits of a recording as errors that name field, value and limit."""

from __future__ import annotations

from predictor.audio.limits import AudioLimits
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
