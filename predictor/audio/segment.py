"""Cuts long recordings where they are quietest: if it can be helped, no cut falls into a word."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.types import SAMPLE_RATE_HZ, Samples

_FRAME: Final = SAMPLE_RATE_HZ // 100  # samples; cuts are tried every 10 ms
_WINDOW: Final = 10  # frames of the moving energy: 100 ms
_MIN_TAIL_S: Final = 1.0  # a shorter rest is hardly ever a word of its own


def split(samples: Samples, max_segment_s: float, search_s: float = 5.0) -> list[tuple[int, int]]:
    """Pieces (start, end) in samples that cover `samples` in order, each exactly once.

    No piece is longer than `max_segment_s`; a cut is searched within `search_s` before that limit.
    The last piece has at least 1 s unless the whole recording has less. O(n).
    """
    longest = int(max_segment_s * SAMPLE_RATE_HZ)
    if longest < 2 * _FRAME:
        raise ValueError(f"max_segment_s={max_segment_s} is below {2 * _FRAME / SAMPLE_RATE_HZ} s")
    tail = min(int(_MIN_TAIL_S * SAMPLE_RATE_HZ), longest // 4)
    search = min(int(search_s * SAMPLE_RATE_HZ), longest // 2)
    pieces = []
    start = 0
    while len(samples) - start > longest:
        latest = min(start + longest, len(samples) - tail)
        cut = _quietest(samples, latest - search, latest)
        pieces.append((start, cut))
        start = cut
    if len(samples):
        pieces.append((start, len(samples)))
    return pieces


def _quietest(samples: Samples, low: int, high: int) -> int:
    """The cut in [low, high] whose surrounding 100 ms have the least energy.

    Of equally quiet places (digital silence) the middle of the longest run.
    """
    num_frames = (high - low) // _FRAME
    if num_frames < 1:
        return high
    half = _WINDOW // 2 * _FRAME
    # Frames from half a window before `low` to half a window behind the last candidate.
    padded = np.zeros(num_frames * _FRAME + 2 * half, dtype=np.float32)
    begin, end = low - half, low + num_frames * _FRAME + half
    inside = samples[max(begin, 0) : min(end, len(samples))]
    padded[max(begin, 0) - begin :][: len(inside)] = inside
    energy = np.square(padded, dtype=np.float64).reshape(-1, _FRAME).sum(axis=1)
    moving = np.convolve(energy, np.ones(_WINDOW), mode="valid")  # [num_frames + 1], at the cuts
    return low + _longest_run_middle(moving <= moving.min()) * _FRAME


def _longest_run_middle(quiet: NDArray[np.bool_]) -> int:
    """Index of the middle of the longest run of True; there is at least one."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], quiet, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest] + ends[longest] - 1) // 2
