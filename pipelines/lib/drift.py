"""Whether today's traffic still looks like the report that was last accepted.

The recordings are not the same, so nothing is paired: both sides are resampled on their own.
Without references, confidence, language mix, length of what is said and loops still tell.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.lib.evaluation import Report
from pipelines.lib.gate import Check, Outcome
from pipelines.lib.intervals import Interval
from pipelines.lib.score import Kind
from pipelines.lib.slices import duration_bucket

NUM_RESAMPLES = 4_000
SHARE_FLOOR = 1e-3  # a class that one side lacks counts as this share, or PSI would be infinite

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """Beyond these, the sample has drifted. A rise counts once its whole interval is above."""

    max_wer_rise: float = 0.01  # absolute
    max_confidence_drop: float = 0.03  # of the mean
    max_psi: float = 0.2  # population stability index of languages and durations; 0.2 is usual
    max_repetition_rise: float = 0.01  # share of recordings
    max_failure_rate: float = 0.01


def find_drift(baseline: Report, current: Report, limits: DriftLimits | None = None) -> list[Check]:
    """One check a question; those that cannot be asked of these reports are left out."""
    limits = limits or DriftLimits()
    before, after = (_answered(report) for report in (baseline, current))
    checks = [
        *_error_rates(before, after, limits),
        _rise("doubt", before, after, _doubt, limits.max_confidence_drop),
        _rise("looping", before, after, _looping, limits.max_repetition_rise),
        _shift("language mix", before, after, lambda row: str(row["detected"]), limits.max_psi),
        _shift(
            "durations", before, after, lambda r: duration_bucket(r["duration_s"]), limits.max_psi
        ),
        _failure(current, limits),
    ]
    return [check for check in checks if check is not None]


def psi(before: Counter[str], after: Counter[str]) -> float:
    """Population stability index: Σ (q - p) ln(q / p) over the classes."""
    total = 0.0
    for name in before.keys() | after.keys():
        p = max(before[name] / max(before.total(), 1), SHARE_FLOOR)
        q = max(after[name] / max(after.total(), 1), SHARE_FLOOR)
        total += (q - p) * math.log(q / p)
    return total


def _answered(report: Report) -> list[Row]:
    return [row for row in report["clips"] if row["error"] is None]


def _error_rates(
    before: Sequence[Row], after: Sequence[Row], limits: DriftLimits
) -> list[Check | None]:
    """Words and characters apart."""
    metrics = sorted({str(r["metric"]) for r in before} & {str(r["metric"]) for r in after})
    checks = []
    for metric in metrics:
        sides = [[r for r in rows if r["metric"] == metric] for rows in (before, after)]
        name = "error rate" if len(metrics) == 1 else f"error rate ({metric.upper()})"
        checks.append(_rise(name, sides[0], sides[1], _errors, limits.max_wer_rise))
    return checks


def _outcome(passed: bool) -> Outcome:
    return Outcome.KEPT if passed else Outcome.BROKEN


def _errors(row: Row) -> tuple[float, float] | None:
    return (row["errors"], row["num_reference"]) if row["kind"] == Kind.SPEECH else None


def _doubt(row: Row) -> tuple[float, float] | None:
    return None if row["confidence"] is None else (1 - row["confidence"], 1)


def _looping(row: Row) -> tuple[float, float]:
    return (float(row["looping"]), 1)


def _rise(
    name: str,
    before: Sequence[Row],
    after: Sequence[Row],
    count: Callable[[Row], tuple[float, float] | None],
    limit: float,
) -> Check | None:
    """Whether a ratio of sums has risen beyond the limit, its interval's low end included."""
    sides = [[c for row in rows if (c := count(row)) is not None] for rows in (before, after)]
    if not all(side and sum(weight for _, weight in side) for side in sides):
        return None
    found = _unpaired(np.asarray(sides[0], float), np.asarray(sides[1], float))
    risen = found.low > limit
    return Check(
        name,
        _outcome(not risen),
        found.estimate,
        limit,
        f"{name}: {found.estimate * 100:+.2f} points since the accepted report "
        f"({found.low * 100:+.2f} to {found.high * 100:+.2f}), a rise beyond "
        f"{limit * 100:.2f} points counts",
    )


def _unpaired(before: np.ndarray, after: np.ndarray) -> Interval:
    """Difference of two ratios of sums ([items, 2]), each side resampled on its own."""
    rng = np.random.default_rng(0)
    ratios = []
    for side in (before, after):
        size = len(side)
        drawn = rng.multinomial(size, np.full(size, 1 / size), size=NUM_RESAMPLES)
        sums = drawn @ side  # [NUM_RESAMPLES, 2]
        ratios.append(sums[:, 0] / np.maximum(sums[:, 1], 1e-12))
    low, high = np.quantile(ratios[1] - ratios[0], [0.025, 0.975])
    point = after[:, 0].sum() / after[:, 1].sum() - before[:, 0].sum() / before[:, 1].sum()
    return Interval(float(point), float(low), float(high))


def _shift(
    name: str,
    before: Sequence[Row],
    after: Sequence[Row],
    class_of: Callable[[Row], str],
    limit: float,
) -> Check | None:
    if not before or not after:
        return None
    found = psi(Counter(map(class_of, before)), Counter(map(class_of, after)))
    return Check(
        name,
        _outcome(found <= limit),
        found,
        limit,
        f"{name}: population stability index {found:.3f}, beyond {limit:g} counts as drift",
    )


def _failure(current: Report, limits: DriftLimits) -> Check:
    failed = current["summary"]["failures"]
    rate = failed["rate"] or 0.0
    return Check(
        "failure rate",
        _outcome(rate <= limits.max_failure_rate),
        rate,
        limits.max_failure_rate,
        f"{failed['count']} of {failed['of']} requests failed, "
        f"at most {limits.max_failure_rate:.1%} is allowed",
    )
