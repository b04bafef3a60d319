"""How long a recording says it is, or is likely to be by its size: for admission, never believed.

The decoder asks for more when it finds more, and gives back what it does not need.
"""

from __future__ import annotations

from typing import Final

from predictor.audio.sniff import Container

# Bytes a second at which a container is usually sent; what is denser asks for more as it decodes.
_USUAL_RATES: Final[dict[Container, int]] = {
    "mp3": 12_000,
    "aac": 10_000,
    "mp4": 10_000,
    "webm": 5_000,
    "ogg": 5_000,
    "amr": 1_600,
}
_OTHER_RATE: Final = 32_000
_SLACK_S: Final = 0.1  # that a decoder may lose at an end
_MAX_CHUNKS: Final = 64
_OPEN_SIZE: Final = 0x7FFF_0000  # what recorders write that cannot go back to the header


def stated_duration_s(data: memoryview, container: Container) -> tuple[float, int]:
    """Seconds and channels; constant time."""
    if container == "flac" and (stated := _flac(data)) is not None:
        return stated
    return len(data) / _USUAL_RATES.get(container, _OTHER_RATE), 2


def truncation(data: memoryview, container: Container, duration_s: float) -> tuple[str, ...]:
    """A note when the header states more sound than `duration_s`, all that could be decoded."""
    stated_s: float | None = None
    if container == "flac" and (flac := _flac(data)) is not None:
        stated_s = flac[0]
    elif container == "wav":
        stated_s = _wav_s(data)
    if stated_s is None or duration_s >= stated_s - _SLACK_S:
        return ()
    return (f"the file is cut off: it states {stated_s:.1f} s, {duration_s:.1f} s are there",)


def _wav_s(data: memoryview) -> float | None:
    """Of the first data chunk, where a stream has not left its size open."""
    place, bytes_per_s = 12, 0
    for _ in range(_MAX_CHUNKS):
        head = bytes(data[place : place + 8])
        if len(head) < 8:
            return None
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"fmt ":
            bytes_per_s = int.from_bytes(bytes(data[place + 16 : place + 20]), "little")
        if head[:4] == b"data":
            is_open = size == 0 or size >= _OPEN_SIZE
            return None if is_open or bytes_per_s == 0 else size / bytes_per_s
        place += 8 + size + size % 2
    return None


def _flac(data: memoryview) -> tuple[float, int] | None:
    """Of STREAMINFO, the first block: 20 bits of rate, 3 of channels, 5 of depth, 36 of samples."""
    if len(data) < 26 or bytes(data[:4]) != b"fLaC":
        return None
    bits = int.from_bytes(data[18:26], "big")
    rate_hz, channels, num_samples = bits >> 44, (bits >> 41 & 0b111) + 1, bits & (1 << 36) - 1
    if rate_hz == 0 or num_samples == 0:
        return None
    return num_samples / rate_hz, channels
