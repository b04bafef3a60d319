"""When a core lets its runner prepare for later steps: at rest, and now and then while it works.

A piece of it, such as the capture of a graph, takes up to 0.1 s and cannot be broken off: whoever
arrives meanwhile waits for its end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from predictor.engine.protocol import Runner

logger = logging.getLogger(__name__)

# At rest for so long, the core is likely to stay so: a client that asks one after another sends its
# next request within milliseconds of an answer, and a live session within half a second.
REST_S: Final = 0.5
# A core that is never at rest for so long prepares one piece in this time all the same.
MAX_PAUSE_S: Final = 10.0
# While sequences run, preparing for later steps may take this share of the time, and so much of it
# at once: a replica that comes up under load is at full speed within seconds.
SHARE: Final = 0.4
MAX_AT_ONCE_S: Final = 1.5


class Preparation:
    """Of one runner; the core's thread uses it, anybody may read `is_done`."""

    def __init__(self, runner: Runner, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, from any moment on."""
        self._runner = runner
        self._clock = clock
        self.is_done = False  # nothing is left to do at rest
        self._holds = False  # the runner has not let go of what the last steps worked on
        self._rests_since_s: float | None = None  # None = it works
        self._went_on_s = self._earned_until_s = clock()
        self._left_s = MAX_AT_ONCE_S  # that may be spent between steps

    def interrupt(self) -> None:
        """A step runs."""
        self._rests_since_s = None
        self._holds = True
        self.is_done = False

    def due_in_s(self) -> float | None:
        """At rest: seconds until `go_on` has something to do; None = it has nothing left."""
        now_s = self._clock()
        if self._rests_since_s is None:
            self._rests_since_s = now_s
        if self._holds:
            return 0.0
        if self.is_done:
            return None
        due_s = min(self._rests_since_s + REST_S, self._went_on_s + MAX_PAUSE_S)
        return max(0.0, due_s - now_s)

    def go_on(self) -> None:
        """At rest: one piece."""
        if self._holds:
            self._holds = False
            try:
                self._runner.let_go()
            except Exception:
                logger.exception("what has ended was not let go of")
            return
        try:
            self.is_done = not self._runner.idle()
            self._went_on_s = self._clock()
        except Exception:
            logger.exception("preparing for later steps failed")
            self.is_done = True

    def between_steps(self) -> None:
        """While sequences run: what the last steps missed, as long as it takes a share of time."""
        now_s = self._clock()
        earned_s = SHARE * (now_s - self._earned_until_s)
        self._left_s = min(MAX_AT_ONCE_S, self._left_s + earned_s)
        self._earned_until_s = now_s
        if self._left_s <= 0:
            return
        try:
            self._runner.between_steps()
        except Exception:
            logger.exception("preparing for later steps failed")
        self._left_s -= self._clock() - now_s
