"""How often the watch is right: whole rollouts simulated, scrape by scrape.

    python -m tests.pipelines.watch_simulation --out tests/pipelines/results/watch.json

Requests come as a Poisson stream, latencies follow a lognormal distribution and land in the
predictor's own histogram buckets, confidences in its own too; both versions are scraped every 15 s
and the watch looks after each scrape, as it does in a rollout. Prometheus' part in this, reading
counters, is tried on a real one in test_watch.py; here the counts are handed over as it gives them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.rollout.limits import WatchLimits
from pipelines.rollout.plan import Plan
from pipelines.rollout.series import Added
from pipelines.rollout.watch import Evidence
from predictor.metrics import CONFIDENCE_BUCKETS, LATENCY_BUCKETS_S

SCRAPE_S = 15
RATES = (1, 3, 10, 30, 100)  # requests a second, both versions together
MEDIANS_S = (0.07, 0.2, 0.45, 1.2)  # p95 at several places between the buckets' bounds
BASE_FAILED = (0.0, 0.002, 0.02)
LATENCY_BOUNDS = (*LATENCY_BUCKETS_S, math.inf)
CONFIDENCE_BOUNDS = (*CONFIDENCE_BUCKETS, math.inf)


@dataclass(frozen=True, slots=True)
class Version:
    """How a version answers."""

    failed: float = 0.002
    median_s: float = 0.45
    sigma: float = 0.6  # of the logarithm of the latency
    tail: float = 1.0  # what the slowest tenth takes longer, on top
    confidence: float = 0.9


class Traffic:
    """Draws what a version's counters gain in one scrape interval."""

    def __init__(self, version: Version, rng: np.random.Generator) -> None:
        self._version, self._rng = version, rng
        shares = _lognormal_shares(version)
        self._latency = shares
        a = 20 * version.confidence
        draws = np.random.default_rng(0).beta(a, 20 - a, 20_000)
        edges = np.array([0.0, *CONFIDENCE_BUCKETS])
        self._confidence = np.append(np.histogram(draws, edges)[0], 0) / len(draws)

    def added(self, rate: float) -> Added:
        number = int(self._rng.poisson(rate * SCRAPE_S))
        failed = int(self._rng.binomial(number, self._version.failed))
        confidence = self._rng.multinomial(number - failed, self._confidence)
        return Added(
            codes={"200": number - failed, "500": failed},
            seconds=_cumulative(self._rng.multinomial(number, self._latency), LATENCY_BOUNDS),
            confidence=_cumulative(confidence, CONFIDENCE_BOUNDS),
            confidence_sum=float(
                self._rng.normal(
                    self._version.confidence * (number - failed),
                    0.07 * math.sqrt(max(number - failed, 1)),
                )
            ),
        )


def _lognormal_shares(version: Version) -> NDArray[np.float64]:
    """Share of the latencies in each bucket."""

    def below(seconds: float) -> float:
        def cdf(x: float) -> float:
            z = math.log(x / version.median_s) / version.sigma
            return 0.5 * (1 + math.erf(z / math.sqrt(2)))

        if version.tail == 1.0:
            return cdf(seconds)
        cut = version.median_s * math.exp(1.2816 * version.sigma)  # the slowest tenth begins here
        slow = cdf(seconds / version.tail)
        return cdf(seconds) if seconds <= cut else max(min(cdf(seconds), 0.9), slow)

    sums = [below(bound) for bound in LATENCY_BUCKETS_S] + [1.0]
    return np.maximum(np.diff([0.0, *sums]), 0.0)


def _cumulative(counts: NDArray[np.int64], bounds: Sequence[float]) -> dict[float, float]:
    return dict(zip(bounds, np.cumsum(counts).astype(float).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Ending:
    """How a simulated rollout ended."""

    promoted: bool
    percent: int  # the last share
    seconds: float
    said: str


def rollout(
    stable: Version, candidate: Version, rate: float, rng: np.random.Generator,
    plan: Plan | None = None, limits: WatchLimits | None = None,
) -> Ending:  # fmt: skip
    """One rollout at `rate` requests a second, by the default plan and limits."""
    plan = plan or Plan()
    evidence = Evidence(limits or WatchLimits())
    both = Traffic(stable, rng), Traffic(candidate, rng)
    elapsed = 0.0
    for percent, following in zip(plan.steps, [*plan.steps[1:], 100], strict=True):
        began = elapsed
        while True:
            elapsed += SCRAPE_S
            share = percent / 100
            evidence.add(both[0].added(rate * (1 - share)), both[1].added(rate * share))
            look = evidence.look(following)
            if look.problems or look.both:
                return Ending(False, percent, elapsed, "; ".join(look.problems) or look.both)
            soaked = elapsed - began
            if soaked >= plan.soak_s and not look.undecided:
                break
            if soaked >= max(plan.max_wait_s, plan.soak_s):
                return Ending(False, percent, elapsed, look.undecided)
    return Ending(True, 100, elapsed, "")


def cell(
    kind: str, rate: float, median_s: float, failed: float, repetitions: int
) -> dict[str, Any]:
    """How many of the repetitions ended as they should."""
    stable = Version(failed=failed, median_s=median_s)
    candidate = {
        "identical": stable,
        "p95 x 2": Version(failed=failed, median_s=2 * median_s),
        "slowest tenth x 2": Version(failed=failed, median_s=median_s, tail=2.0),
        "5 % more failures": Version(failed=failed + 0.05, median_s=median_s),
    }[kind]
    rng = np.random.default_rng([round(rate), round(1000 * median_s), round(1000 * failed)])
    endings = [rollout(stable, candidate, rate, rng) for _ in range(repetitions)]
    if kind == "identical":
        right = sum(ending.promoted for ending in endings)
    else:
        right = sum(not e.promoted and e.percent < 50 for e in endings)
    return {
        "candidate": kind,
        "requests_per_s": rate,
        "stable_median_s": median_s,
        "stable_failed": failed,
        "repetitions": repetitions,
        "right": right / repetitions,
        "median_seconds": float(np.median([ending.seconds for ending in endings])),
        "wrong": sorted({e.said for e in endings if kind == "identical" and not e.promoted})[:3],
    }


def cells(repetitions: int, rates: Sequence[float] = RATES) -> list[dict[str, Any]]:
    """All of them: latency's cells vary the latency, failures' the failures."""
    found = []
    for rate in rates:
        for median_s in MEDIANS_S:
            found.append(cell("identical", rate, median_s, 0.002, repetitions))
            found.append(cell("p95 x 2", rate, median_s, 0.002, repetitions))
            found.append(cell("slowest tenth x 2", rate, median_s, 0.002, repetitions))
        for failed in BASE_FAILED:
            found.append(cell("identical", rate, 0.45, failed, repetitions))
            found.append(cell("5 % more failures", rate, 0.45, failed, repetitions))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--out", type=Path, required=True)
    parsed = parser.parse_args()
    found = cells(parsed.repetitions)
    parsed.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for each in found:
        print({k: v for k, v in each.items() if k != "wrong"})


if __name__ == "__main__":
    main()
