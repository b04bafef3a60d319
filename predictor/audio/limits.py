"""What a recording may be and what is done to it: plain data for the server and its workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

# Encoders pad: a recording cut to exactly the limit must not be refused for 50 ms of padding.
DURATION_SLACK_S = 0.1

Vad = Literal["silero", "energy", "off"]
Channel = int | Literal["mix", "separate"]


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """Limits that hold while decoding, whatever a file's header says."""

    max_bytes: int = 64 * 1024 * 1024  # of one recording as it was sent
    max_duration_s: float = 14_400.0
    max_channels: int = 8
    min_sample_rate_hz: int = 8_000
    max_sample_rate_hz: int = 192_000
    max_decoded_values: int = 5_529_600_000  # samples times channels: 4 h, 8 channels, 48 kHz
    decode_timeout_s: float = 60.0  # for one window of it; a decoder that hangs is killed
    max_pending_bytes: int = 512 * 1024 * 1024  # waiting and being decoded; more is refused


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """What is done to a recording besides resampling, and what of it is heard."""

    channel: Channel = "mix"  # the mean of all, one by its number, or each on its own
    track: int | None = None  # of a container with several; None = the one marked default
    high_pass_hz: float | None = None  # second-order Butterworth corner frequency
    loudness_lufs: float | None = None  # integrated loudness to bring each piece to (BS.1770)


def channel_of(text: str) -> Channel:
    """The channel that "mix", "separate" or a number from 0 names. Raises ValueError."""
    if text == "mix":
        return "mix"
    if text == "separate":
        return "separate"
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        raise ValueError("must be mix, separate or the number of a channel, from 0")
    return int(text)


@dataclass(frozen=True, slots=True)
class CutOptions:
    """Which parts of a recording are transcribed, as pieces of bounded length."""

    segment_s: float = 30.0  # longest piece
    vad: Vad = "silero"  # what finds speech; "off": everything is a piece's
    threshold: float = 0.5  # probability at which speech begins; it ends 0.15 below
    margin_s: float = 0.2  # heard before speech begins and after it has ended
    min_speech_s: float = 0.1  # what is shorter is no speech
    min_silence_s: float = 0.5  # what is shorter is a pause within one piece


@dataclass(frozen=True, slots=True)
class Hearing:
    """How one recording asks to be heard; None = as the settings say."""

    channel: Channel | None = None
    track: int | None = None  # of a container with several, counted from 0
    vad: Vad | None = None
    segment_s: float | None = None
    threshold: float | None = None
    margin_s: float | None = None
    min_speech_s: float | None = None
    min_silence_s: float | None = None

    def options(self, usual: AudioOptions) -> AudioOptions:
        """`usual`, but for what was asked."""
        asked = self._asked(("channel", "track"))
        return replace(usual, **asked) if asked else usual

    def cuts(self, usual: CutOptions) -> CutOptions:
        """`usual`, but for what was asked."""
        asked = self._asked(CutOptions.__slots__)
        return replace(usual, **asked) if asked else usual

    def _asked(self, names: Sequence[str]) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


AS_SET: Final = Hearing()
