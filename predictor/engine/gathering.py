"""When those that wait are enough for a prefill, while others run and are held up by it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from predictor.engine.sequence import Sequence

# While sequences run and more wait than there are slots, a prefill waits until one slot in so many
# is free: many small prefills would cost the running ones more than it costs those that wait.
REFILL_SHARE = 16
# Requests that trickle in while many run gather until there is one for so many that run, or until
# the first of them has waited so long: each prefill holds all of the running ones up.
GATHER_SHARE = 16
MAX_GATHER_S = 0.05
# Steps of kept sequences gather while other steps run: a prefill of few, and the decode step behind
# it, take the device nearly as long as one of many.
STEP_GATHER_SHARE = 2
MAX_STEP_GATHER_S = 0.02


def steps_have_gathered(steps: Collection[Sequence], num_running: int) -> bool:
    """Of kept sequences, of which others have a step that runs; files hold none of them up."""
    is_many = len(steps) * STEP_GATHER_SHARE >= num_running
    return bool(steps) and (is_many or _has_waited(steps, MAX_STEP_GATHER_S))


def requests_have_gathered(
    waiting: Iterable[Sequence], num_waiting: int, num_running: int, num_free: int, num_slots: int
) -> bool:
    """Of files; `num_free` of `num_slots` slots are theirs to take."""
    if not num_waiting or num_free < min(num_waiting, max(1, num_slots // REFILL_SHARE)):
        return False
    return num_waiting >= num_running // GATHER_SHARE or _has_waited(waiting, MAX_GATHER_S)


def _has_waited(waiting: Iterable[Sequence], seconds: float) -> bool:
    now_s = time.monotonic()
    return any(now_s - sequence.created_s >= seconds for sequence in waiting)
