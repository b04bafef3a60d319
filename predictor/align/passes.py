"""One pass of the aligner, or two: over a whole piece, then over its parts between pauses.

An aligner of few classes is exact on short audio only. The first pass says which words lie between
which pauses, where that is beyond doubt, and the second hears each part alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from predictor.align.words import monotonic
from predictor.types import SAMPLE_RATE_HZ, Samples

Times = NDArray[np.float64]  # [words, 2] starts and ends, seconds

TWO_PASS_BELOW_S: Final = 60.0  # an aligner that hears more at once is exact on all of it
_LONG_S: Final = 8.0  # what is shorter is heard once
_MIN_PART_S: Final = 4.0
_FRAME: Final = SAMPLE_RATE_HZ // 100
_MIN_PAUSE_FRAMES: Final = 15
_SURE_S: Final = 0.12  # a word's middle lies at least so far from a cut


@dataclass(frozen=True, slots=True)
class Marked:
    """One recording and the words said in it."""

    samples: Samples
    words: tuple[str, ...]  # at least one


class Pending(Protocol):
    """A pass that was started."""

    @property
    def is_done(self) -> bool:
        """Whether `result` need not wait."""

    def result(self) -> list[Times]:
        """Waits for it."""


class Model(Protocol):
    """What knows times: `predictor.align.model.Aligner`."""

    @property
    def max_audio_s(self) -> float: ...
    def begin(self, batch: Sequence[Marked]) -> Pending: ...


def aligned(model: Model, batch: Sequence[Marked]) -> list[Times]:
    """Times of the words of each recording, which never go back."""
    return Started(model, batch).result()


class Started:
    """As `aligned`, under way: others may be started before its result is taken."""

    def __init__(self, model: Model, batch: Sequence[Marked]) -> None:
        self._model, self._batch = model, batch
        self._first = model.begin(batch)

    @property
    def is_done(self) -> bool:
        """Whether the first pass is, which for most models is the only one."""
        return self._first.is_done

    def result(self) -> list[Times]:
        """Waits for it."""
        return _finished(self._model, self._batch, self._first.result())


def _finished(model: Model, batch: Sequence[Marked], said: Sequence[Times]) -> list[Times]:
    results = [_repaired(times) for times in said]
    if model.max_audio_s >= TWO_PASS_BELOW_S:
        return results
    parts: list[Marked] = []
    places: list[tuple[int, int, float]] = []  # recording, first word, where the part begins
    for index, (item, times) in enumerate(zip(batch, results, strict=True)):
        for first, last, start, end in _parts(item, times):
            parts.append(Marked(item.samples[start:end], item.words[first:last]))
            places.append((index, first, start / SAMPLE_RATE_HZ))
    if parts:
        for (index, first, at_s), part in zip(places, model.begin(parts).result(), strict=True):
            results[index][first : first + len(part)] = _repaired(part) + at_s
    return results


def pauses(samples: Samples) -> list[tuple[float, float]]:
    """Quiet stretches of 0.15 s or more inside the recording, seconds."""
    num_frames = len(samples) // _FRAME
    if not num_frames:
        return []
    frames = samples[: num_frames * _FRAME].reshape(num_frames, _FRAME).astype(np.float64)
    loudness = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    loud, quiet = np.quantile(loudness, [0.95, 0.05])
    limit = max(loud - 30, min(quiet + 6, loud - 12))
    edges = np.flatnonzero(np.diff(np.r_[False, loudness < limit, False].astype(np.int8)))
    runs = edges.reshape(-1, 2)
    inside = (runs[:, 1] - runs[:, 0] >= _MIN_PAUSE_FRAMES) & (runs[:, 0] > 0)
    inside &= runs[:, 1] < num_frames
    return [(start / 100, end / 100) for start, end in runs[inside].tolist()]


def _parts(item: Marked, times: Times) -> list[tuple[int, int, int, int]]:
    """Parts to hear alone, as (first word, last word + 1, start, end in samples); none if whole."""
    duration_s = len(item.samples) / SAMPLE_RATE_HZ
    if duration_s <= _LONG_S:
        return []
    cuts = _cuts(pauses(item.samples), times, duration_s)
    if not cuts:
        return []
    words = [0, *(word for word, _ in cuts), len(item.words)]
    at = [0, *(round(at_s * SAMPLE_RATE_HZ) for _, at_s in cuts), len(item.samples)]
    return list(zip(words[:-1], words[1:], at[:-1], at[1:], strict=True))


def _cuts(
    quiet: Sequence[tuple[float, float]], times: Times, duration_s: float
) -> list[tuple[int, float]]:
    """(first word after it, seconds) of each cut."""
    middles = times.mean(axis=1)
    cuts: list[tuple[int, float]] = []
    begin_s, first = 0.0, 0
    for start_s, end_s in quiet:
        at_s = (start_s + end_s) / 2
        if at_s - begin_s < _MIN_PART_S or duration_s - at_s < 1.0:
            continue
        word = int(np.searchsorted(middles, at_s))
        if not first < word < len(middles):
            continue
        if np.abs(middles[word - 1 : word + 1] - at_s).min() < _SURE_S:
            continue
        cuts.append((word, at_s))
        begin_s, first = at_s, word
    return cuts


def _repaired(times: Times) -> Times:
    milliseconds = monotonic((1000 * times).ravel().round().tolist())
    return np.array(milliseconds, dtype=np.float64).reshape(-1, 2) / 1000
