"""Tests that may be looked at after every request and stay true: mixture sequential tests.

Each keeps an e-value: what a bet against "the candidate is no worse" has made of one coin. Under
that hypothesis it is 20 or more, ever, in at most 5 % of rollouts, however often one looks
(Ville's inequality); 1 / alpha is where it rejects.

The bet of one look: of the failures that both versions had in it, each is the candidate's with the
probability of its share of the requests, times a ratio that stands for how much worse it is. That
needs no failure rate, cancels whatever hits both versions at once, and holds for shares that
change. It is mixed over several ratios (Robbins' mixture). Failures drawn without putting back
spread less than the binomial that is bet against (Hoeffding 1963), so the bound holds for frequent
ones too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

RATIOS = (1.5, 2.0, 3.0, 4.0, 8.0, 16.0, 48.0)  # how much worse, in equal parts of the bet
FEW_STABLE = 0.05  # of the candidate's requests; with fewer of the stable version's: its past
Z_UPPER = 3.3  # one-sided 99.95 %: the stable version's past, at its worst


@dataclass(slots=True)
class Tally:
    """Requests, and those among them that failed (or were slow, or unsure)."""

    requests: float = 0.0
    failed: float = 0.0

    @property
    def rate(self) -> float:
        """Share that failed; 0 without requests."""
        return self.failed / self.requests if self.requests else 0.0

    def add(self, requests: float, failed: float) -> None:
        """Count more."""
        self.requests += requests
        self.failed += failed

    def upper(self) -> float:
        """Wilson's upper bound of the rate."""
        n, z2 = self.requests, Z_UPPER**2
        if not n:
            return 1.0
        centre = self.rate + z2 / (2 * n)
        spread = Z_UPPER * math.sqrt(self.rate * (1 - self.rate) / n + z2 / (4 * n * n))
        return (centre + spread) / (1 + z2 / n)


class WorseTest:
    """Whether the candidate fails more often than the stable version."""

    def __init__(self) -> None:
        self.stable, self.candidate = Tally(), Tally()
        self._logs = [0.0] * len(RATIOS)

    def add(self, stable: Tally, candidate: Tally) -> None:
        """What came since the last look."""
        if candidate.requests <= 0 and stable.requests <= 0:
            return
        if stable.requests < FEW_STABLE * candidate.requests:
            self._bet_on_the_past(candidate)  # at 100 % nothing is left to compare with
        elif candidate.requests > 0:
            self._bet(stable, candidate)
        self.stable.add(stable.requests, stable.failed)
        self.candidate.add(candidate.requests, candidate.failed)

    @property
    def e_value(self) -> float:
        """1 at the start; large = the candidate is worse."""
        return _mean_exp(self._logs)

    def _bet(self, stable: Tally, candidate: Tally) -> None:
        if not (stable.failed or candidate.failed):
            return
        share = candidate.requests / (candidate.requests + stable.requests)
        for i, (won, lost) in enumerate(_stakes(share)):
            self._logs[i] += candidate.failed * won - stable.failed * lost

    def _bet_on_the_past(self, candidate: Tally) -> None:
        _bet_above(self._logs, self.stable.upper(), candidate)


class AboveTest:
    """Whether a rate is above a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._logs = [0.0] * len(RATIOS)

    def add(self, found: Tally) -> None:
        """What came since the last look."""
        _bet_above(self._logs, self.limit, found)

    @property
    def e_value(self) -> float:
        """1 at the start; large = it is above."""
        return _mean_exp(self._logs)


class ShiftTest:
    """Whether a histogram has moved: a test at each bound at once, so that none must be chosen.

    `upwards`: worse is more above a bound (latency); otherwise more at or below it (confidence).
    """

    def __init__(self, *, upwards: bool) -> None:
        self._upwards = upwards
        self._tests: dict[float, WorseTest] = {}

    def add(self, stable: Mapping[float, float], candidate: Mapping[float, float]) -> None:
        """Observations at or below each bound since the last look, +Inf included."""
        for bound in sorted(set(stable) | set(candidate)):
            if math.isinf(bound):
                continue
            test = self._tests.setdefault(bound, WorseTest())
            test.add(*(self._tally(each, bound) for each in (stable, candidate)))

    @property
    def e_value(self) -> float:
        """1 at the start; large = the candidate's have moved the wrong way."""
        values = [test.e_value for test in self._tests.values()]
        return sum(values) / len(values) if values else 1.0

    def _tally(self, counts: Mapping[float, float], bound: float) -> Tally:
        whole, below = counts.get(math.inf, 0.0), counts.get(bound, 0.0)
        return Tally(whole, max(0.0, whole - below) if self._upwards else below)


def quantile(counts: Mapping[float, float], q: float) -> float:
    """Of a histogram's cumulative counts, as Prometheus' histogram_quantile interpolates; NaN
    without observations."""
    bounds = sorted(counts)
    whole = counts.get(math.inf, 0.0)
    if not whole:
        return math.nan
    rank, low, below = q * whole, 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= rank:
            if math.isinf(bound):
                return low
            inside = counts[bound] - below
            return low + (bound - low) * ((rank - below) / inside if inside else 1.0)
        low, below = bound, counts[bound]
    return low


@lru_cache(maxsize=8)
def _stakes(share: float) -> tuple[tuple[float, float], ...]:
    """Of each ratio, what a failure of the candidate's wins and one of the stable version's costs;
    `share` is the candidate's of the requests. The same for all bounds of a histogram."""
    wholes = [(ratio, ratio * share + 1 - share) for ratio in RATIOS]
    return tuple((math.log(ratio / whole), math.log(whole)) for ratio, whole in wholes)


def _bet_above(logs: list[float], limit: float, found: Tally) -> None:
    limit = min(max(limit, 1e-9), 0.999)
    for i, ratio in enumerate(RATIOS):
        worse = min(ratio * limit, (1 + limit) / 2)
        logs[i] += found.failed * math.log(worse / limit)
        logs[i] += (found.requests - found.failed) * math.log((1 - worse) / (1 - limit))


def _mean_exp(logs: Sequence[float]) -> float:
    highest = max(logs)
    if highest > 700:
        return math.inf
    return sum(math.exp(each) for each in logs) / len(logs)
