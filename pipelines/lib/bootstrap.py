"""Confidence intervals of error rates by the bootstrap, percentile method, vectorised.

Whole clusters (recordings, or all recordings of a speaker) are drawn with replacement and the rate
is formed anew from counts. Two systems are compared on the same draws, so what makes a recording
hard for both cancels out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.lib.errors import OptionError

NUM_RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK_CELLS = 4_000_000  # resamples × clusters held at once


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval, in the unit of the estimate."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL


def rate_interval(
    errors: Sequence[int],
    units: Sequence[int],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Σ errors / Σ units with its interval. `clusters` names each item's cluster (None = itself).

    Raises OptionError when there are no units at all.
    """
    sums = _cluster_sums([errors, units], clusters)  # [2, num_clusters]
    draws = _resampled(sums, num_resamples, seed)  # [num_resamples, 2]
    return _interval(_ratio(sums.sum(axis=1)), _ratio(draws.T), level)


def difference_interval(
    errors: tuple[Sequence[int], Sequence[int]],
    units: Sequence[int],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Rate of the second system minus rate of the first, on the same recordings, paired.

    Below zero: the second makes fewer errors. Raises OptionError when there are no units at all.
    """
    sums = _cluster_sums([errors[0], errors[1], units], clusters)  # [3, num_clusters]
    draws = _resampled(sums, num_resamples, seed).T  # [3, num_resamples]
    total = sums.sum(axis=1)
    point = _ratio(total[[1, 2]]) - _ratio(total[[0, 2]])
    return _interval(point, _ratio(draws[[1, 2]]) - _ratio(draws[[0, 2]]), level)


def mean_difference_interval(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of the second minus mean of the first, paired; for confidence and yes/no outcomes."""
    ones = [1.0] * len(first)
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    sums = _cluster_sums([gaps, ones], clusters)
    draws = _resampled(sums, num_resamples, seed)
    return _interval(_ratio(sums.sum(axis=1)), _ratio(draws.T), level)


def _cluster_sums(
    rows: Sequence[Sequence[float]], clusters: Sequence[Hashable] | None
) -> NDArray[np.float64]:
    values = np.asarray(rows, dtype=np.float64)  # [num_rows, num_items]
    if values.shape[1] == 0 or values[-1].sum() == 0:
        raise OptionError("bootstrap: there is nothing to count, no recording has a reference")
    if clusters is None:
        return values
    if len(clusters) != values.shape[1]:
        raise OptionError(f"bootstrap: {len(clusters)} clusters for {values.shape[1]} recordings")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(name, len(numbers)) for name in clusters])
    return np.stack([np.bincount(index, weights=row, minlength=len(numbers)) for row in values])


def _resampled(sums: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums over clusters drawn with replacement: [num_resamples, num_rows]."""
    if num_resamples < 100:
        raise OptionError(f"bootstrap: num_resamples {num_resamples} is below the least, 100")
    num_clusters = sums.shape[1]
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // num_clusters)
    shares = np.full(num_clusters, 1 / num_clusters)
    parts = []
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        times_drawn = rng.multinomial(num_clusters, shares, size=size)  # [size, num_clusters]
        parts.append(times_drawn @ sums.T)
    return np.concatenate(parts)


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """sums[0] / sums[1], NaN where a draw holds no units."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[1] > 0, sums[0] / sums[1], np.nan)


def _interval(point: NDArray[np.float64], draws: NDArray[np.float64], level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(float(point), float(low), float(high), level)
