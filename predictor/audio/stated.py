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


def stated_duration_s(data: memoryview, container: Container) -> tuple[float, int]:
    """Seconds and channels; constant time."""
    if container == "flac" and (stated := _flac(data)) is not None:
        return stated
    return len(data) / _USUAL_RATES.get(container, _OTHER_RATE), 2


def _flac(data: memoryview) -> tuple[float, int] | None:
    """Of STREAMINFO, the first block: 20 bits of rate, 3 of channels, 5 of depth, 36 of samples."""
    if len(data) < 26 or bytes(data[:4]) != b"fLaC":
        return None
    bits = int.from_bytes(data[18:26], "big")
    rate_hz, channels, num_samples = bits >> 44, (bits >> 41 & 0b111) + 1, bits & (1 << 36) - 1
    if rate_hz == 0 or num_samples == 0:
        return None
    return num_samples / rate_hz, channels
