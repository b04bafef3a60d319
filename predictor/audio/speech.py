"""From probabilities to spans of speech, as they come: no span is ever taken back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from predictor.audio.vad import FRAME_S

# A first word behind music or noise is believed late: it began with the first frame in a row that
# reached this share of the threshold.
_RISING: Final = 0.2
_MAX_RISE: Final = 10  # frames


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """When speech begins and ends. Seconds are rounded to frames of 32 ms."""

    threshold: float = 0.5  # probability at which speech begins
    release: float = 0.35  # and below which it may have ended
    min_speech_s: float = 0.1  # what is shorter is a click
    min_silence_s: float = 0.5  # what is shorter is a pause within one span
    # While a span grows from the first length to the second, the silence that ends it shrinks to
    # `least_silence_s`: so long speech ends in a short pause before it must be cut anywhere.
    shrinks_from_s: float = math.inf
    shrinks_to_s: float = math.inf
    least_silence_s: float = 0.1


class SpeechFinder:
    """Frames in, spans [start, end) out, in frames since the beginning."""

    def __init__(self, options: SpeechOptions) -> None:
        self._options = options
        self._min_speech = max(1, round(options.min_speech_s / FRAME_S))
        self._min_silence = max(1, round(options.min_silence_s / FRAME_S))
        self._end = 0  # behind the last frame of the span that is open
        self._num_spoken = 0  # frames of it at or over the release
        self._rising = 0  # since this frame speech has at least been possible
        self.num_frames = 0
        self.start: int | None = None  # of the span that is open

    @property
    def is_speaking(self) -> bool:
        """Whether a span is open that will not be dropped as a click."""
        return self.start is not None and self._num_spoken >= self._min_speech

    @property
    def num_quiet(self) -> int:
        """Frames since somebody last spoke."""
        return self.num_frames - self._end

    @property
    def settled(self) -> int:
        """No span that is still to come begins before this frame."""
        if self.start is not None:
            return self.start
        return max(self._rising, self.num_frames - _MAX_RISE)

    def feed(self, probabilities: Iterable[float]) -> list[tuple[int, int]]:
        """Takes the probabilities of the next frames; returns the spans that ended with them."""
        return [span for p in probabilities if (span := self.take(p)) is not None]

    def take(self, probability: float) -> tuple[int, int] | None:
        """Takes the probability of the next frame; returns the span that ended with it."""
        if self.start is None:
            if probability < _RISING * self._options.threshold:
                self._rising = self.num_frames + 1
            elif probability >= self._options.threshold:
                self.start, self._end = self.settled, self.num_frames + 1
                self._num_spoken = 1
        elif probability >= self._options.release:
            self._end = self.num_frames + 1
            self._num_spoken += 1
        self.num_frames += 1
        if self.start is None or self._end == self.num_frames:  # a frame of speech ends nothing
            return None
        if self.num_frames - self._end < self._enough(self._end - self.start):
            return None
        return self._closed()

    def _enough(self, num_frames: int) -> int:
        """Quiet frames that end a span of so many frames."""
        options = self._options
        over_s = num_frames * FRAME_S - options.shrinks_from_s
        if over_s <= 0:
            return self._min_silence
        share = min(1.0, over_s / max(options.shrinks_to_s - options.shrinks_from_s, FRAME_S))
        least_s = min(options.least_silence_s, options.min_silence_s)
        silence_s = options.min_silence_s + share * (least_s - options.min_silence_s)
        return max(1, round(silence_s / FRAME_S))

    def finish(self) -> list[tuple[int, int]]:
        """The span that was open at the end, if there is one."""
        span = self._closed() if self.start is not None else None
        return [] if span is None else [span]

    def restart(self, frame: int) -> None:
        """The open span begins at `frame` from now on, and is speech whatever follows."""
        self.start, self._end = frame, max(frame + 1, self._end)
        self._num_spoken = self._min_speech

    def _closed(self) -> tuple[int, int] | None:
        assert self.start is not None
        span, is_speech = (self.start, self._end), self.is_speaking
        self._rising = self.num_frames
        self.start = None
        return span if is_speech else None
