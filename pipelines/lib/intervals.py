"""Confidence bounds that hold on few recordings: rates, and differences of two versions in pairs.

A difference is a ratio of sums over clusters (speakers, sessions or recordings). A bound is where
the randomisation test over the clusters' signs (`flips`) stops to reject, widened as Student's t is
by Hall's transformation for skewed sums, and by the rule of three while few recordings differ. A
rate gets the gamma interval of Fay and Feuer (1997), which is the exact Poisson bound where no
error was seen. All were chosen by simulation, and tried on another one:
`tests/pipelines/simulation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from pipelines.lib.errors import OptionError
from pipelines.lib.flips import Floats, tail

MIN_CLUSTERS = 10  # fewer say too little about how clusters vary
LEVEL = 0.95
SPARSE = 20  # from so many differing recordings on, the rule of three adds nothing
BOUND_STEPS = 36  # halvings until a bound is found
MAX_SCALE = 1e4  # times the recordings there are; more than that is called "no number"


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval, in the unit of the estimate."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL


@dataclass(frozen=True, slots=True)
class Care:
    """How much is allowed for what few clusters and few differing recordings do not show."""

    doubt: float  # standard errors that are added to the skewness seen
    sparse: int  # from so many differing recordings on, the rule of three adds nothing
    mid_p: bool  # half of the chance of what was seen counts, where chances come in steps

    def of_three(self, miss: float) -> float:
        """The rule of three's bound, as a share of the exact one: 3 instead of 3.69 at 95 %."""
        return math.log(2 * miss) / math.log(miss) if self.mid_p else 1.0


REPORTED = Care(0.0, 4, mid_p=True)  # intervals: as wide as they must be
DECIDING = Care(1.0, SPARSE, mid_p=False)  # a wrong promotion costs more than a few recordings


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A difference of two rates, from which bounds at any level follow."""

    value: float
    variance: float  # of `value`
    df: float  # effective number of clusters, minus one
    skewness: float  # of the clusters' residuals
    step: float  # what one more differing recording would change
    num_changed: float  # recordings that differ
    num_clusters: int
    gaps: Floats | None = None  # [num_clusters], None: only expected, then Student's t it is
    units: Floats | None = None  # [num_clusters]
    times: float = 1.0  # how often the clusters are there, see `scaled`

    @property
    def enough(self) -> bool:
        """Whether there are clusters enough for any statement."""
        return self.num_clusters >= MIN_CLUSTERS

    def below(self, limit: float, miss: float, care: Care = DECIDING) -> bool:
        """Whether the truth is below `limit`, said wrongly with a chance of at most `miss`."""
        return self.enough and self.value < limit and self._excludes(limit, miss, care)

    def above(self, limit: float, miss: float, care: Care = DECIDING) -> bool:
        """Whether the truth is above `limit`, said wrongly with a chance of at most `miss`."""
        return self.enough and self.value > limit and self._excludes(limit, miss, care)

    def upper(self, miss: float, care: Care = DECIDING) -> float:
        """Bound that the truth exceeds with a chance of at most `miss`; inf without clusters."""
        return self._bound(lambda limit: self.below(limit, miss, care), 1)

    def lower(self, miss: float, care: Care = DECIDING) -> float:
        """Bound that the truth falls below with a chance of at most `miss`."""
        return self._bound(lambda limit: self.above(limit, miss, care), -1)

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Both bounds at half the miss each; None where there are too few clusters."""
        if not self.enough:
            return None
        miss = (1 - level) / 2
        return Interval(self.value, self.lower(miss, REPORTED), self.upper(miss, REPORTED), level)

    def p_above(self, limit: float) -> float:
        """One-sided p-value of "the truth is at most `limit`": small when it is above."""
        return _smallest(lambda miss: self.above(limit, miss))

    def scaled(self, factor: float) -> Estimate:
        """The same difference, had `factor` times the clusters been asked."""
        return replace(
            self,
            variance=self.variance / factor,
            df=(self.df + 1) * factor - 1,
            step=self.step / factor,
            num_changed=self.num_changed * factor,
            num_clusters=int(self.num_clusters * factor),
            times=self.times * factor,
        )

    def _excludes(self, limit: float, miss: float, care: Care) -> bool:
        """Whether `limit` is too far from the estimate to be the truth."""
        t = _student(miss, self.df)
        side = 1 if limit > self.value else -1
        few = max(0.0, 1 - self.num_changed / care.sparse)
        nothing_seen = t * t * self.step * care.of_three(miss)
        seen = (limit - self.value) ** 2 - few * nothing_seen**2
        if seen <= 0 or t <= 0:
            return seen > 0
        distance = math.sqrt(seen) / self._skew_widening(t, side, care.doubt)
        if self.gaps is None or self.units is None:
            return distance > t * math.sqrt(self.variance)
        terms = -side * (self.gaps - (self.value + side * distance) * self.units)
        return tail(terms, self.times, mid_p=care.mid_p) < miss

    def _skew_widening(self, t: float, side: int, doubt: float) -> float:
        """How much further out Hall's bound lies than Student's; never nearer."""
        clusters = self.num_clusters
        a = (side * self.skewness + doubt * math.sqrt(6 / clusters)) / math.sqrt(clusters)
        if a <= 1e-6:
            return 1.0
        return max(1.0, -3 / a * (float(np.cbrt(1 + a * (-t - a / 6))) - 1) / t)

    def _bound(self, beyond: Callable[[float], bool], side: int) -> float:
        """The nearest limit that is `beyond` the estimate."""
        if not self.enough:
            return side * math.inf
        far = math.sqrt(self.variance) + self.step
        if far == 0:
            return self.value
        while not beyond(self.value + side * far):
            far *= 2
        near = 0.0
        for _ in range(BOUND_STEPS):
            middle = (near + far) / 2
            near, far = (near, middle) if beyond(self.value + side * middle) else (middle, far)
        return self.value + side * far


@dataclass(frozen=True, slots=True)
class PairedSums:
    """What is left of two versions' counts on the same recordings, enough for every estimate."""

    sums: Floats  # [3, num_clusters]: first, second, units
    num_changed: int  # recordings whose counts differ
    size: float  # units by which a recording differs when it does

    def estimate(self, weight: float = 1.0) -> Estimate:
        """Σ second / Σ units - weight · Σ first / Σ units.

        `weight` above 1 asks for a relative margin: 1.05 = "5 % more errors than the first".
        """
        gaps, units = self.sums[1] - weight * self.sums[0], self.sums[2]
        total, number = float(units.sum()), units.size
        value = float(gaps.sum() / total)
        if number < 2:
            return Estimate(value, 0.0, 0.0, 0.0, self.size / total, self.num_changed, number)
        # Leaving a cluster out moves the estimate by its residual over (1 - its share).
        moved = (gaps - value * units) / np.maximum(1 - units / total, 1e-9)
        variance = float(np.sum(moved**2)) / total**2 * (number - 1) / number
        power = float(np.sum(units**4))
        effective = float(np.sum(units**2)) ** 2 / power if power else number
        return Estimate(
            value=value,
            variance=variance,
            df=max(1.0, min(number, effective) - 1),
            skewness=_skewness(moved),
            step=self.size / total,
            num_changed=self.num_changed,
            num_clusters=number,
            gaps=gaps,
            units=units,
        )


def paired_sums(
    first: Sequence[float],
    second: Sequence[float],
    units: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    size: float | None = None,
) -> PairedSums:
    """Counts of two versions on the same recordings, added up by cluster (None = each its own).

    `size` is how much a recording differs when it does (default: as seen, or as many units as an
    erring one has). Raises OptionError when there are no units at all.
    """
    rows = np.asarray([first, second, units], dtype=np.float64)  # [3, num_items]
    return PairedSums(
        sums=cluster_sums(rows, clusters),
        num_changed=int((rows[1] != rows[0]).sum()),
        size=_usual_size(rows) if size is None else size,
    )


def rate_interval(
    errors: Sequence[float],
    units: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = LEVEL,
) -> Interval | None:
    """Σ errors / Σ units with its interval; None with fewer than MIN_CLUSTERS clusters.

    Raises OptionError when there are no units at all.
    """
    rows = np.asarray([errors, units], dtype=np.float64)
    sums = cluster_sums(rows, clusters)
    number = sums.shape[1]
    if number < MIN_CLUSTERS:
        return None
    alone = np.stack([np.zeros(number), sums[0], sums[1]])
    found = PairedSums(alone, num_changed=SPARSE, size=0.0).estimate()
    miss = (1 - level) / 2
    # A wider variance for few clusters: Student's quantile in the place of the normal one.
    wider = (_student(miss, found.df) / -float(special.ndtri(miss))) ** 2
    erring = rows[0][rows[0] > 0]
    step = math.sqrt(wider) * (float(erring.mean()) if erring.size else 1.0) / rows[1].sum()
    low, high = _gamma_bounds(found.value, found.variance * wider, step, miss)
    return Interval(found.value, low, high, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def scale_that(decides: Callable[[float], bool]) -> float | None:
    """Least factor from 1 on at which `decides` holds (it holds from there on); None = never."""
    if not decides(MAX_SCALE):
        return None
    low, high = 0.0, math.log(MAX_SCALE)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(math.exp(middle)) else (middle, high)
    return math.exp(high)


def cluster_sums(rows: Floats, clusters: Sequence[Hashable] | None) -> Floats:
    """Rows [num_rows, num_items] added up by cluster; the last row holds the units."""
    if rows.shape[1] == 0 or rows[-1].sum() == 0:
        raise OptionError("interval: there is nothing to count, no recording has a reference")
    if clusters is None:
        return rows
    if len(clusters) != rows.shape[1]:
        raise OptionError(f"interval: {len(clusters)} clusters for {rows.shape[1]} recordings")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(name, len(numbers)) for name in clusters])
    return np.stack([np.bincount(index, weights=row, minlength=len(numbers)) for row in rows])


def interval_json(interval: Interval | None) -> dict[str, Any]:
    """low, high and level; None each where there are too few clusters."""
    if interval is None:
        return {"low": None, "high": None, "level": LEVEL}
    return {"low": interval.low, "high": interval.high, "level": interval.level}


def _gamma_bounds(rate: float, variance: float, step: float, miss: float) -> tuple[float, float]:
    low = 0.0
    if rate > 0 and variance > 0:
        low = float(special.gammaincinv(rate**2 / variance, miss)) * variance / rate
    more, spread = rate + step, variance + step**2  # had one more recording erred
    high = float(special.gammainccinv(more**2 / spread, miss)) * spread / more
    return low, high


def _usual_size(rows: Floats) -> float:
    """Units by which a recording differs: as seen, else as an erring one has, at least 1."""
    gaps = np.abs(rows[1] - rows[0])
    if gaps.any():
        return max(1.0, float(gaps[gaps > 0].mean()))
    erring = rows[:2][rows[:2] > 0]
    return max(1.0, float(erring.mean())) if erring.size else 1.0


def _student(miss: float, df: float) -> float:
    """Student's quantile that is exceeded with the chance `miss`."""
    return -float(special.stdtrit(max(df, 1.0), miss))


def _skewness(values: Floats) -> float:
    number = values.size
    second = float(np.mean(values**2))
    if number < 3 or second == 0:
        return 0.0
    corrected = number**2 / ((number - 1) * (number - 2))
    return float(np.mean(values**3)) / float(second**1.5) * corrected


def _smallest(holds: Callable[[float], bool]) -> float:
    """Smallest miss from 1e-9 to 0.5 at which `holds`; 1 when it holds nowhere."""
    low, high = math.log(1e-9), math.log(0.4999)
    if not holds(math.exp(high)):
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(math.exp(middle)) else (middle, high)
    return math.exp(high)
