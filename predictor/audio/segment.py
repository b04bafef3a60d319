"""Where to cut when a piece must end: in a pause if there is one, else where it is quietest."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.types import SAMPLE_RATE_HZ, Samples

_FRAME: Final = SAMPLE_RATE_HZ // 100  # samples; cuts are tried every 10 ms
_WINDOW: Final = 10  # frames of the moving energy: 100 ms


def quietest_cut(samples: Samples, low: int, high: int) -> int:
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
    begin, end = longest_run(moving <= moving.min())
    return low + (begin + end - 1) // 2 * _FRAME


def longest_run(wanted: NDArray[np.bool_]) -> tuple[int, int]:
    """[begin, end) of the longest run of True, the first of several; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if len(starts) == 0:
        return 0, 0
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])
