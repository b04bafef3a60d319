"""Settings: what of a recording is heard, and how it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from predictor.settings.spec import setting

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class AudioFields:
    """Part of Settings."""

    max_audio_s: float = setting(
        14_400.0,
        "longest recording; longer ones are refused, never cut off",
        low=1,
        high=86400,
        file_key="max_audio_length",
    )
    segment_s: float = setting(
        30.0,
        "longer recordings are cut at quiet places into pieces of at most this",
        low=2,
        high=1200,
    )
    vad: str = setting(
        "silero",
        "what finds speech, so that nothing else is transcribed: `silero` is a small network, "
        "`energy` goes by loudness, `off` transcribes everything",
        choices=("silero", "energy", "off"),
    )
    vad_threshold: float = setting(
        0.5, "probability at which speech begins; it ends 0.15 below", low=0.01, high=0.99
    )
    vad_margin_s: float = setting(
        0.2, "heard before speech begins and after it has ended", low=0, high=5
    )
    vad_min_speech_s: float = setting(0.1, "what is shorter is no speech", low=0, high=5)
    vad_min_silence_s: float = setting(
        0.5, "what is shorter is a pause within one piece", low=0.05, high=30
    )
    max_channels: int = setting(8, "most channels of a recording", low=1, high=64)
    num_decode_workers: int | None = setting(
        None,
        "processes that decode recordings and find speech, of all fronts together; `auto`: three "
        "for four CPUs of the container, 2 at least",
        kind=int,
        low=1,
        high=256,
        none="auto",
    )
    max_long_recordings: int = setting(
        4,
        "recordings of more than 8 pieces that are decoded at a time, each in a process of its own",
        low=1,
        high=256,
    )
    decode_timeout_s: float = setting(
        60.0, "time limit for decoding a window of a recording", low=1, high=3600
    )
    max_decoded_values: int = setting(
        5_529_600_000,
        "most samples times channels a recording may decode to",
        low=16_000,
        high=1 << 34,
    )
    max_pending_bytes: int = setting(
        512 * _MIB,
        "most bytes of audio that wait to be decoded; more is answered with 429",
        low=_MIB,
        high=64 * 1024 * _MIB,
    )
    audio_channel: str = setting(
        "mix",
        "`mix` is the mean of all channels, `separate` transcribes each on its own, a number from "
        "0 is that channel alone",
        may_be_number=True,
    )
    high_pass_hz: float | None = setting(
        None,
        "corner frequency of a high-pass against hum and rumble",
        kind=float,
        low=10,
        high=1000,
        none="off",
    )
    loudness_lufs: float | None = setting(
        None,
        "loudness (BS.1770) that every recording is brought to, by 30 dB at most",
        kind=float,
        low=-60,
        high=-5,
        none="off",
    )
