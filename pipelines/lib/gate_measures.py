"""The gate's questions that are not about shares of errors: confidence, calibration, latency."""

from __future__ import annotations

from typing import Any

from pipelines.lib.compare import Comparison, found_estimate
from pipelines.lib.intervals import MIN_CLUSTERS, scale_that
from pipelines.lib.limits import GateLimits, Margin
from pipelines.lib.margins import MISS_AT_MARGIN, MISS_REFUSED, Excess, three_ways
from pipelines.lib.verdict import Check, Outcome


def judge_confidence(comparison: Comparison, limits: GateLimits) -> list[Check]:
    checks = []
    found = comparison["confidence"]
    if found is not None and limits.confidence_margin is not None:
        checks.append(_moved("confidence", found, limits.confidence_margin))
    found = comparison["calibration"]
    if found is not None and limits.calibration_margin is not None:
        excess = Excess(found, Margin(absolute=limits.calibration_margin))
        broken = excess.p_worse() <= MISS_REFUSED
        limit = f"the margin of {limits.calibration_margin:+.3f}"
        outcome, verdict, needed = three_ways(
            found, excess.kept, broken, limit, excess.clips_needed
        )
        reason = f"calibration (Brier score): {_means(found)}, {verdict}"
        checks.append(
            Check("calibration", outcome, found["high"], limits.calibration_margin, reason, needed)
        )
    return checks


def _moved(name: str, found: dict[str, Any], margin: float) -> Check:
    """Judged both ways: a threshold on confidence suffers from a rise as from a fall."""
    estimate = found_estimate(found)

    def kept(scale: float = 1.0) -> bool:
        scaled = estimate.scaled(scale)
        return scaled.below(margin, MISS_AT_MARGIN) and scaled.above(-margin, MISS_AT_MARGIN)

    def broken(scale: float = 1.0) -> bool:
        scaled = estimate.scaled(scale)
        return scaled.above(margin, MISS_REFUSED) or scaled.below(-margin, MISS_REFUSED)

    def clips_needed() -> int | None:
        factor = scale_that(lambda scale: kept(scale) or broken(scale))
        return None if factor is None else int(found["num_clips"] * factor) + 1

    outcome, verdict, needed = three_ways(
        found, kept, broken(), f"the margin of ±{margin:.3f}", clips_needed
    )
    reason = f"mean {name} where both are right: {_means(found)}, {verdict}"
    return Check(name, outcome, found["difference"], margin, reason, needed)


def judge_latency(comparison: Comparison, limits: GateLimits) -> list[Check]:
    latency = comparison["latency"]
    checks = []
    if limits.p95_latency_ratio is not None:
        words = "p95 latency: candidate over stable"
        if latency["drafted"]:
            return []  # a version that was handed the other's transcript is no slower than that
        if not latency["interleaved"]:
            words += " (asked one after the other, so the load may differ)"
        checks.append(
            _bounded(
                "p95 latency ratio", words, latency, "ratio", limits.p95_latency_ratio, "times"
            )
        )
    if limits.max_p95_latency_s is not None:
        words = "p95 latency of the candidate"
        checks.append(_bounded("p95 latency", words, latency, "p95", limits.max_p95_latency_s, "s"))
    return checks


def _bounded(
    name: str, words: str, latency: dict[str, Any], key: str, limit: float, unit: str
) -> Check:
    found = latency[key]
    if found is None:
        number = latency["num_clips"]
        reason = f"{words}: {number} requests were answered by both, {MIN_CLUSTERS} are needed"
        return Check(name, Outcome.OPEN, None, limit, reason, MIN_CLUSTERS)
    outcome, verdict = Outcome.OPEN, "the interval holds the limit of"
    if found["high"] <= limit:
        outcome, verdict = Outcome.KEPT, "within the limit of"
    elif found["low"] > limit:
        outcome, verdict = Outcome.BROKEN, "beyond the limit of"
    return Check(
        name,
        outcome,
        found["estimate"],
        limit,
        f"{words} {found['estimate']:.3g} {unit} with {found['level']:.0%} interval "
        f"{found['low']:.3g} to {found['high']:.3g}, {verdict} {limit:g} {unit}",
    )


def _means(found: dict[str, Any]) -> str:
    text = (
        f"candidate {found['candidate']:.3f}, stable {found['stable']:.3f}; "
        f"difference {found['difference']:+.3f}"
    )
    if found["low"] is not None:
        text += f" with {found['level']:.0%} interval {found['low']:+.3f} to {found['high']:+.3f}"
    return text
