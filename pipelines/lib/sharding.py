"""Recordings in parts of about equal length, so that no shard is the last for an hour."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from pipelines.lib.manifest import Clip

UNKNOWN_S = 10.0  # a recording whose length the manifest does not say


def shard(clips: Sequence[Clip], index: int, of: int) -> list[Clip]:
    """The clips of one part, in the manifest's order; the parts together are all of them.

    Longest first, each to the part with the least audio so far: the same for everyone who asks.
    """
    parts = [(0.0, number) for number in range(of)]
    owner: dict[str, int] = {}
    for clip in sorted(clips, key=lambda c: (-_seconds(c), c.id)):
        seconds, number = heapq.heappop(parts)
        owner[clip.id] = number
        heapq.heappush(parts, (seconds + _seconds(clip), number))
    return [clip for clip in clips if owner[clip.id] == index]


def _seconds(clip: Clip) -> float:
    return UNKNOWN_S if clip.duration_s is None else clip.duration_s
