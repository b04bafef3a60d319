"""The estimate of `pipelines.lib.intervals` for many repetitions at once: same numbers, no loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pipelines.lib.intervals import DECIDING, Care

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
STEPS = 30


@dataclass(frozen=True)
class Rows:
    """Of each repetition what `Estimate` holds of one."""

    gaps: Floats  # [repetitions, clusters]
    units: Floats
    value: Floats  # [repetitions], as all below
    df: Floats
    skewness: Floats
    step: Floats
    num_changed: Ints

    @classmethod
    def of(cls, first: Ints, second: Ints, words: Ints, owners: Ints) -> Self:
        """Errors and words [repetitions, clips], clusters of the clips [clips]."""
        changed = np.abs(second - first)
        num_changed = (changed > 0).sum(axis=1)
        num_erring = (first > 0).sum(axis=1) + (second > 0).sum(axis=1)
        as_erring = (first + second).sum(axis=1) / np.maximum(1, num_erring)
        size = np.where(
            num_changed > 0, changed.sum(axis=1) / np.maximum(1, num_changed), as_erring
        )
        member = np.eye(int(owners.max()) + 1)[owners]  # [clips, clusters]
        gaps, units = (second - first) @ member, words @ member
        total, number = units.sum(axis=1), units.shape[1]
        value = gaps.sum(axis=1) / total
        share = units / total[:, None]
        moved = (gaps - value[:, None] * units) / np.maximum(1 - share, 1e-9)
        second_moment, third_moment = (moved**2).mean(axis=1), (moved**3).mean(axis=1)
        effective = (units**2).sum(axis=1) ** 2 / (units**4).sum(axis=1)
        corrected = number**2 / ((number - 1) * (number - 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            skewness = np.nan_to_num(third_moment / second_moment**1.5 * corrected)
        return cls(
            gaps, units, value, np.maximum(1.0, np.minimum(number, effective) - 1), skewness,
            np.maximum(1, size) / total, num_changed,
        )  # fmt: skip

    def below(self, limit: float, miss: float, care: Care = DECIDING) -> Bools:
        return (self.value < limit) & self._excludes(limit, miss, care)

    def above(self, limit: float, miss: float, care: Care = DECIDING) -> Bools:
        return (self.value > limit) & self._excludes(limit, miss, care)

    def _excludes(self, limit: float, miss: float, care: Care) -> Bools:
        t = -special.stdtrit(self.df, miss)
        side = np.where(limit > self.value, 1, -1)
        few = np.maximum(0.0, 1 - self.num_changed / care.sparse)
        nothing_seen = t * t * self.step * care.of_three(miss)
        seen = (limit - self.value) ** 2 - few * nothing_seen**2
        distance = np.sqrt(np.maximum(seen, 0)) / self._widening(t, side, care.doubt)
        rest = self.gaps - (self.value + side * distance)[:, None] * self.units
        return (seen > 0) & (tails(-side[:, None] * rest, care.mid_p) < miss)

    def _widening(self, t: Floats, side: Ints, doubt: float) -> Floats:
        """How much further out Hall's bound lies than Student's; never nearer."""
        return np.maximum(1.0, self.halls(t, side, doubt))

    def halls(self, t: Floats, side: Ints, doubt: float) -> Floats:
        """Hall's bound as a multiple of Student's."""
        clusters = self.gaps.shape[1]
        a = (side * self.skewness + doubt * math.sqrt(6 / clusters)) / math.sqrt(clusters)
        skewed = np.where(np.abs(a) <= 1e-6, 1e-6, a)
        hall = -3 / skewed * (np.cbrt(1 + skewed * (-t - skewed / 6)) - 1) / t
        return np.where(np.abs(a) <= 1e-6, 1.0, hall)


def tails(terms: Floats, mid_p: bool = False) -> Floats:
    """`flips.tail` of each row [repetitions, clusters]."""
    total, most = terms.sum(axis=1), np.abs(terms).sum(axis=1)
    inside = (total > 0) & (total < most * (1 - 1e-9))
    squares = (terms**2).sum(axis=1)
    point = np.where(inside, total / np.maximum(squares, 1e-300), 0.0)
    low, high = np.zeros_like(point), np.full_like(point, np.inf)
    for _ in range(STEPS):
        tanh = np.tanh(point[:, None] * terms)
        here = (terms * tanh).sum(axis=1)
        if np.all(~inside | (np.abs(here - total) <= 1e-7 * most)):
            break
        low, high = np.where(here < total, point, low), np.where(here < total, high, point)
        slope = squares - ((terms * tanh) ** 2).sum(axis=1)
        following = point + (total - here) / np.maximum(slope, 1e-12 * squares + 1e-300)
        halved = np.where(np.isinf(high), 2 * point, (low + high) / 2)
        leads_out = (following <= low) | (following >= high)
        point = np.where(inside, np.where(leads_out, halved, following), point)
    steep = np.abs(point[:, None] * terms)
    log_cosh = (steep + np.log1p(np.exp(-2 * steep)) - math.log(2)).sum(axis=1)
    spread = (terms**2 / np.cosh(np.minimum(steep, 300)) ** 2).sum(axis=1)
    w = np.sqrt(np.maximum(2 * (point * total - log_cosh), 1e-12))
    u = np.maximum(point * np.sqrt(spread), 1e-9)
    found = special.ndtr(-w) + np.exp(-w * w / 2) / math.sqrt(2 * math.pi) * (1 / u - 1 / w)
    with_a_sign = terms > most[:, None] * 1e-9
    all_of_one_sign = 2.0 ** -(np.count_nonzero(with_a_sign, axis=1).astype(float) + mid_p)
    outside = np.where(total <= 0, 0.5, all_of_one_sign)
    return np.where(inside, np.clip(found, 0, 1), outside)
