"""What Prometheus says of two versions that share the traffic, judged as it comes.

The candidate is compared with the stable version at the same time, never with a bare number alone.
It is stopped when it is certainly worse (see `sequential`) AND by more than the limit: certainty
alone would stop a candidate for a difference that nobody minds, and a limit alone stops an
identical one by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.rollout.limits import WatchLimits
from pipelines.rollout.sequential import AboveTest, ShiftTest, Tally, WorseTest, quantile
from pipelines.rollout.series import Added, QueryError, Series

P95 = 0.95


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen."""

    problems: tuple[str, ...] = ()  # the candidate's: roll back
    both: str = ""  # wrong with both versions: going on and going back are no help
    undecided: str = ""  # what is missing before the step may end
    failed: str = ""  # why nothing was seen


class Evidence:
    """All that was seen since traffic began to move, without the asking."""

    def __init__(self, limits: WatchLimits) -> None:
        self.limits = limits
        self._failures = WorseTest()
        self._absolute = AboveTest(limits.max_failed_ratio)
        self._latency = ShiftTest(upwards=True)
        self._confidence = ShiftTest(upwards=False)
        self._seconds: tuple[dict[float, float], dict[float, float]] = {}, {}
        self._sums = [0.0, 0.0]
        self._counts = [0.0, 0.0]

    @property
    def requests(self) -> float:
        """That the candidate answered."""
        return self._failures.candidate.requests

    def add(self, stable: Added, candidate: Added) -> None:
        """What came since the last look."""
        both = (stable, candidate)
        tallies = [Tally(each.requests, _failed(each.codes)) for each in both]
        self._failures.add(*tallies)
        self._absolute.add(tallies[1])
        self._latency.add(stable.seconds, candidate.seconds)
        self._confidence.add(stable.confidence, candidate.confidence)
        for i, each in enumerate(both):
            for bound, value in each.seconds.items():
                self._seconds[i][bound] = self._seconds[i].get(bound, 0.0) + value
            self._sums[i] += each.confidence_sum
            self._counts[i] += each.confidence.get(math.inf, 0.0)

    def look(self, next_percent: int) -> Look:
        """What it says before the candidate's share becomes `next_percent`."""
        above = self._above()
        shared = self._rise() <= self.limits.max_failed_rise  # the stable version fails as well
        found = [self._worse() or ("" if shared else above), self._slower(), self._unsure()]
        problems = tuple(each for each in found if each)
        both = above if shared and not problems else ""
        return Look(problems, both, self._missing(next_percent))

    def _rise(self) -> float:
        return self._failures.candidate.rate - self._failures.stable.rate

    def _certain(self, e_value: float) -> bool:
        return e_value >= 1 / self.limits.alpha

    def _worse(self) -> str | None:
        stable, candidate = self._failures.stable.rate, self._failures.candidate.rate
        limit = self.limits.max_failed_rise
        if not self._certain(self._failures.e_value) or self._rise() <= limit:
            return None
        return (
            f"{candidate:.1%} of {self.requests:.0f} requests to the candidate failed, "
            f"{stable:.1%} to the stable version; a rise of at most {limit:.1%} is allowed"
        )

    def _above(self) -> str:
        rate = self._failures.candidate.rate
        if not self._certain(self._absolute.e_value) or rate <= self.limits.max_failed_ratio:
            return ""
        return (
            f"{rate:.1%} of the requests to the candidate failed, at most "
            f"{self.limits.max_failed_ratio:.1%} is allowed; "
            f"of the stable version's {self._failures.stable.rate:.1%}"
        )

    def _slower(self) -> str | None:
        before, after = (quantile(each, P95) for each in self._seconds)
        limit = self.limits.p95_latency_ratio
        if not self._certain(self._latency.e_value) or not after > before * limit:
            return None
        return (
            f"p95 latency is {after:.3f} s, the stable version's {before:.3f} s; "
            f"at most {limit:g} times is allowed"
        )

    def _unsure(self) -> str | None:
        if not all(self._counts) or not self._certain(self._confidence.e_value):
            return None
        before, after = (s / n for s, n in zip(self._sums, self._counts, strict=True))
        if before - after <= self.limits.max_confidence_drop:
            return None
        return (
            f"mean confidence is {after:.3f}, the stable version's {before:.3f}; "
            f"a drop of at most {self.limits.max_confidence_drop:g} is allowed"
        )

    def _missing(self, next_percent: int) -> str:
        half = next_percent >= 50
        needed = self.limits.min_requests_half if half else self.limits.min_requests
        if self.requests >= needed:
            return ""
        return f"{self.requests:.0f} of {needed} requests have reached the candidate"


class PrometheusWatcher:
    """Asks a Prometheus server."""

    def __init__(
        self, url: str, namespace: str, limits: WatchLimits | None = None, *, timeout_s: float = 10
    ) -> None:
        self.limits = limits or WatchLimits()
        self._series = Series(url, namespace, timeout_s=timeout_s)
        self._evidence = Evidence(self.limits)
        self._versions: tuple[str, str] | None = None

    def check(self) -> None:
        """QueryError when the server cannot be asked."""
        self._series.check()

    def begin(self, stable_version: str, candidate_version: str) -> None:
        """Traffic is about to move: what came before does not count."""
        if self._versions == (stable_version, candidate_version):
            return
        self._series.begin()
        self._evidence = Evidence(self.limits)
        self._versions = stable_version, candidate_version

    def look(self, next_percent: int) -> Look:
        """What is known by now; `next_percent` is the share that the candidate would have next."""
        assert self._versions is not None
        stable, candidate = self._versions
        try:
            gained = self._series.added(self._versions)
        except QueryError as error:
            return Look(failed=str(error))
        self._evidence.add(gained[stable], gained[candidate])
        return self._evidence.look(next_percent)


def _failed(codes: Mapping[str, float]) -> float:
    return sum(n for code, n in codes.items() if code == "429" or code.startswith("5"))


def as_text(problems: Sequence[str], percent: int) -> tuple[str, ...]:
    """Problems with the share at which they were seen."""
    return tuple(f"at {percent} %: {problem}" for problem in problems)
