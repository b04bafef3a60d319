"""A recording that may be decoded: looked at, not decoded yet; and what it may keep in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from predictor.audio.limits import AudioOptions, CutOptions
from predictor.audio.pcm import PcmLayout
from predictor.audio.sniff import FORMATS, Container, sniff
from predictor.audio.stated import truncation
from predictor.errors import AudioError


class Credit(Protocol):
    """Seconds of audio that a recording may keep in memory."""

    async def grow(self, audio_s: float, kept_s: float) -> None:
        """Returns when there is room for `audio_s` more; `kept_s` can only be freed by more.

        Who holds nothing else must not wait for others, or all might wait for each other; below 0
        it may.
        """
        ...

    def release(self, audio_s: float) -> None:
        """So much is no longer in memory; below 0 it turned out to be more than was asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """A recording that may be decoded: looked at, not decoded yet."""

    data: bytes | memoryview
    container: Container | None
    layout: PcmLayout | None  # of raw samples
    options: AudioOptions
    cuts: CutOptions
    first_s: float  # of audio, over all channels heard, to hold before it is decoded
    is_long: bool  # as far as that can be known
    field: str
    notes: tuple[str, ...] = ()  # what its sender may not expect
    stated_s: float | None = None  # how long it says it is


def truncated(source: Source, duration_s: float) -> tuple[str, ...]:
    """A note where `duration_s` is less than the file says of itself."""
    if source.container is None:
        return ()
    return truncation(memoryview(source.data).cast("B"), source.container, duration_s)


def container_of(view: memoryview, field: str) -> tuple[Container, int]:
    """By its first bytes, and where it begins. Raises AudioError."""
    found = sniff(view)
    if found is None:
        what = "it is empty" if len(view) == 0 else f"starts with {bytes(view[:8])!r}"
        raise AudioError(
            f"{field}: no known audio format ({what}); accepted: {FORMATS}, "
            "raw PCM by content type",
            field=field,
            value=f"{len(view)} bytes",
            limit=FORMATS,
        )
    return found
