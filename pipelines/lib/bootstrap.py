"""Confidence intervals by the bootstrap, percentile method, vectorised.

Whole clusters (recordings, or all recordings of a speaker) are drawn with replacement and the
statistic is formed anew. Two systems are compared on the same draws, so what makes a recording hard
for both cancels out. Error rates are judged by `intervals`, which holds on fewer clusters; their
bootstrap is shown beside it, and quantiles of latencies have no other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.lib.defaults import NUM_RESAMPLES
from pipelines.lib.errors import OptionError
from pipelines.lib.intervals import LEVEL, Interval, cluster_sums

MIN_RESAMPLES = 100
MAX_QUANTILE_RESAMPLES = 2_000  # each draws and partitions every recording
_CHUNK_CELLS = 4_000_000  # resamples × clusters held at once


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
    rows = np.asarray([errors[0], errors[1], units], dtype=np.float64)
    sums = cluster_sums(rows, clusters)  # [3, num_clusters]
    draws = _resampled(sums, num_resamples, seed).T  # [3, num_resamples]
    total = sums.sum(axis=1)
    point = _ratio(total[[1, 2]]) - _ratio(total[[0, 2]])
    return _interval(float(point), _ratio(draws[[1, 2]]) - _ratio(draws[[0, 2]]), level)


def quantile_ratio_interval(
    first: Sequence[float],
    second: Sequence[float],
    quantile: float,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Quantile of the second over that of the first, on the same draws of paired values."""
    values = np.asarray([first, second], dtype=np.float64)
    points = np.quantile(values, quantile, axis=1)
    draws = _quantiles(values, quantile, num_resamples, seed)  # [num_resamples, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = draws[:, 1] / draws[:, 0]
    point = float(points[1] / points[0]) if points[0] else float("inf")
    return _interval(point, ratios, level)


def quantile_interval(
    values: Sequence[float],
    quantile: float,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A quantile with its interval."""
    array = np.asarray([values], dtype=np.float64)
    draws = _quantiles(array, quantile, num_resamples, seed)[:, 0]
    return _interval(float(np.quantile(array[0], quantile)), draws, level)


def _quantiles(
    values: NDArray[np.float64], quantile: float, num_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Quantiles of each row over items drawn with replacement: [num_resamples, num_rows]."""
    _check(num_resamples)
    rng = np.random.default_rng(seed)
    number = values.shape[1]
    left = min(num_resamples, MAX_QUANTILE_RESAMPLES)
    parts = []
    while left > 0:
        size = min(left, max(1, _CHUNK_CELLS // number))
        drawn = rng.integers(0, number, size=(size, number))
        parts.append(np.quantile(values[:, drawn], quantile, axis=2).T)
        left -= size
    return np.concatenate(parts)


def _resampled(sums: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums over clusters drawn with replacement: [num_resamples, num_rows]."""
    _check(num_resamples)
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


def _check(num_resamples: int) -> None:
    if num_resamples < MIN_RESAMPLES:
        raise OptionError(
            f"bootstrap: num_resamples {num_resamples} is below the least, {MIN_RESAMPLES}"
        )


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """sums[0] / sums[1], NaN where a draw holds no units."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[1] > 0, sums[0] / sums[1], np.nan)


def _interval(point: float, draws: NDArray[np.float64], level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(point, float(low), float(high), level)
