"""What a recording may be and what is done to it: plain data for the server and its workers."""

from __future__ import annotations

from dataclasses import dataclass

# Encoders pad: a recording cut to exactly the limit must not be refused for 50 ms of padding.
DURATION_SLACK_S = 0.1


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """Limits that hold while decoding, whatever a file's header says."""

    max_bytes: int = 64 * 1024 * 1024  # of one recording as it was sent
    max_duration_s: float = 1200.0
    max_channels: int = 8
    min_sample_rate_hz: int = 8_000
    max_sample_rate_hz: int = 192_000
    max_decoded_values: int = 230_400_000  # samples times channels: 20 minutes at 192 kHz mono
    decode_timeout_s: float = 60.0  # for one recording; a decoder that hangs is killed
    max_pending_bytes: int = 512 * 1024 * 1024  # waiting and being decoded; more is refused


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """What is done to every recording besides resampling; all off by default."""

    channel: int | None = None  # None = mean of all channels; a number = that channel alone
    high_pass_hz: float | None = None  # second-order Butterworth corner frequency
    loudness_lufs: float | None = None  # integrated loudness to bring speech to (BS.1770)
