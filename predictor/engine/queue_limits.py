"""How much may wait: the bounds of the queue, the same wherever it is counted."""

from __future__ import annotations

import math

from predictor.engine.options import EngineOptions
from predictor.errors import Overloaded

MAX_RETRY_AFTER_S = 60


def check_room(
    options: EngineOptions,
    *,
    num_waiting: int,
    waiting_audio_s: float,
    new_audio_s: float,
    audio_s_per_s: float,
) -> None:
    """Raises Overloaded when a clip of `new_audio_s` is over the bounds of what waits.

    A queue that is empty takes any one clip, however long. `audio_s_per_s`, the engine's recent
    speed (0 when unknown), turns a full queue into a time to retry after.
    """
    if num_waiting == 0 or (
        num_waiting + 1 <= options.max_waiting_requests
        and waiting_audio_s + new_audio_s <= options.max_waiting_audio_s
    ):
        return
    backlog_s = waiting_audio_s / audio_s_per_s if audio_s_per_s > 0 else 1.0
    raise Overloaded(
        f"the queue is full: {num_waiting} requests with {waiting_audio_s:.0f} s of audio are "
        f"waiting; the limits are {options.max_waiting_requests} requests and "
        f"{options.max_waiting_audio_s:g} s",
        retry_after_s=max(1, min(MAX_RETRY_AFTER_S, math.ceil(backlog_s))),
    )
