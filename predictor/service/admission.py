"""Who may come in: a replica holds so many seconds of audio and no more.

Counting seconds and not requests, because a second of audio is what costs time, and a bounded
backlog of it is a bounded wait.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from predictor.errors import Overloaded
from predictor.metrics import Metrics

_WINDOW_S = 30.0  # of the recent past, for the pace
_MAX_RETRY_AFTER_S = 60


class Admission:
    """Holds up to `max_held_audio_s` seconds of audio, waiting or running."""

    def __init__(self, max_held_audio_s: float, metrics: Metrics) -> None:
        self.max_held_audio_s = max_held_audio_s
        self.held_audio_s = 0.0
        self._num_held = 0  # requests
        self._metrics = metrics
        self._done: deque[tuple[float, float]] = deque()  # (time, audio seconds) lately

    @contextmanager
    def hold(self, audio_s: float) -> Iterator[None]:
        """Keep `audio_s` of the capacity until the block ends. Raises Overloaded when it is full.

        An empty replica takes any one request: a recording longer than the capacity must not be
        refused for ever.
        """
        if self._num_held and self.held_audio_s + audio_s > self.max_held_audio_s:
            raise self.overloaded(audio_s)
        self.held_audio_s += audio_s
        self._num_held += 1
        self._metrics.audio_accepted_seconds.inc(audio_s)
        try:
            yield
            self._done.append((time.monotonic(), audio_s))
            self._forget_old()
        finally:
            self._num_held -= 1
            # Sums of seconds leave a rest when they are taken apart: nobody here means none.
            self.held_audio_s = self.held_audio_s - audio_s if self._num_held else 0.0

    def overloaded(self, audio_s: float) -> Overloaded:
        """The error for a request of `audio_s`, with a time after which to try again."""
        self._metrics.audio_rejected_seconds.labels(error=Overloaded.spec.code).inc(audio_s)
        return Overloaded(
            f"{self.held_audio_s:.0f} s of audio are waiting or running; {audio_s:.0f} s more are "
            f"over the limit max_held_audio_s of {self.max_held_audio_s:.0f} s",
            retry_after_s=self._seconds_for(self.held_audio_s / 2),
        )

    def _seconds_for(self, audio_s: float) -> int:
        """Whole seconds, at least 1, until `audio_s` are worked off at the recent pace."""
        self._forget_old()
        if not self._done:
            return 1
        elapsed_s = max(1.0, time.monotonic() - self._done[0][0])
        pace = sum(audio for _, audio in self._done) / elapsed_s
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(audio_s / pace)))

    def _forget_old(self) -> None:
        while self._done and self._done[0][0] < time.monotonic() - _WINDOW_S:
            self._done.popleft()
