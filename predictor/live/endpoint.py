"""Where an utterance begins and ends: hysteresis over the speech detector's probabilities.

The pause that ends an utterance shrinks as the utterance grows, so that speech without real pauses
is cut at the best of its short ones, and the cost of a step stays bounded. A cut is always "now":
nothing that was committed lies behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor.live.options import FRAME_SAMPLES, LiveOptions, TurnDetection
from predictor.types import SAMPLE_RATE_HZ

_HYSTERESIS = 0.15
_START_FRAMES = 2  # one frame above the threshold is a click


@dataclass(slots=True)
class Endpointer:
    """The state of one stream; positions are samples of the session's clock."""

    options: LiveOptions
    speech_start: int | None = None  # of the utterance that runs
    silence_start: int | None = None  # within it: nobody speaks since here
    _num_high: int = 0  # frames in a row at or above the threshold, before it begins

    def starts(self, turns: TurnDetection, probability: float, frame_start: int) -> bool:
        """Whether speech began; `speech_start` says where. For frames outside an utterance."""
        self._num_high = self._num_high + 1 if probability >= turns.threshold else 0
        if self._num_high < _START_FRAMES:
            return False
        self.begin(frame_start - (_START_FRAMES - 1) * FRAME_SAMPLES)
        return True

    def begin(self, at: int) -> None:
        """An utterance whose speech begins at sample `at`."""
        self.speech_start, self.silence_start, self._num_high = at, None, 0

    def end(self) -> None:
        """No utterance runs."""
        self.speech_start, self.silence_start, self._num_high = None, None, 0

    def ends(self, turns: TurnDetection, probability: float, frame_start: int) -> bool:
        """Whether this frame ends the utterance by a pause."""
        assert self.speech_start is not None
        if probability >= turns.threshold:
            self.silence_start = None
        elif self.silence_start is None and probability < turns.threshold - _HYSTERESIS:
            self.silence_start = frame_start
        if self.silence_start is None:
            return False
        now = frame_start + FRAME_SAMPLES
        speech_s = (self.silence_start - self.speech_start) / SAMPLE_RATE_HZ
        return now - self.silence_start >= self.pause_s(turns, speech_s) * SAMPLE_RATE_HZ

    def is_too_long(self, now: int) -> bool:
        """Whether the utterance must be cut without a pause."""
        assert self.speech_start is not None
        return now - self.speech_start >= self.options.max_utterance_s * SAMPLE_RATE_HZ

    def pause_s(self, turns: TurnDetection, speech_s: float) -> float:
        """The silence that ends an utterance of `speech_s`."""
        options = self.options
        span_s = options.shrink_to_s - options.shrink_from_s
        share = min(1.0, max(0.0, (speech_s - options.shrink_from_s) / span_s))
        shortest_s = min(turns.pause_s, options.min_pause_s)
        return turns.pause_s + share * (shortest_s - turns.pause_s)

    def audible_end(self, now: int) -> int:
        """Where what the model should hear ends: not long after the speech."""
        if self.silence_start is None:
            return now
        return min(now, self.silence_start + round(self.options.max_silence_s * SAMPLE_RATE_HZ))
