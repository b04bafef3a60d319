"""The decision whether a candidate may replace the stable version, with reasons in words.

Each question is one of non-inferiority and has three answers. Kept: the candidate is shown to be
within the margin. Broken: it is shown to be beyond it. Open: the interval holds the margin, and so
many more recordings would decide. One broken question refuses the candidate, one open question
leaves it undecided. Each language is judged on its own; over several languages and slices, Holm's
correction keeps the chance of a wrong refusal at one interval's.
"""

from __future__ import annotations

from typing import Any

from pipelines.lib.compare import Comparison, compare_reports
from pipelines.lib.evaluation import Report
from pipelines.lib.gate_measures import judge_confidence, judge_latency
from pipelines.lib.intervals import holm
from pipelines.lib.limits import GateLimits, Margin
from pipelines.lib.margins import MISS_REFUSED, Excess, three_ways
from pipelines.lib.verdict import Check, Decision, Outcome, Verdict

__all__ = ["Check", "Decision", "GateLimits", "Outcome", "Verdict", "decide", "judge_reports"]


def judge_reports(
    stable: Report, candidate: Report, limits: GateLimits
) -> tuple[Comparison, Decision]:
    """The comparison with the limits' slices, and the decision.

    Raises OptionError as `compare_reports` does.
    """
    comparison = compare_reports(stable, candidate, slices=limits.slices)
    return comparison, decide(comparison, limits)


def decide(comparison: Comparison, limits: GateLimits) -> Decision:
    """Judge a candidate by a comparison with the stable version."""
    checks = [
        _enough(comparison, limits),
        *_word_errors(comparison, limits),
        *_shares(comparison, limits),
        _failures(comparison, limits),
        *judge_confidence(comparison, limits),
        *judge_latency(comparison, limits),
    ]
    return Decision(tuple(checks))


def _enough(comparison: Comparison, limits: GateLimits) -> Check:
    number = sum(found["num_clips"] for found in comparison["by_language"].values())
    enough = number >= limits.min_clips
    return Check(
        "clips",
        Outcome.KEPT if enough else Outcome.OPEN,
        number,
        limits.min_clips,
        f"{number} recordings with speech were compared, at least {limits.min_clips} are needed",
        None if enough else limits.min_clips,
    )


def _word_errors(comparison: Comparison, limits: GateLimits) -> list[Check]:
    """Every language and slice, tested together."""
    judged: list[tuple[str, dict[str, Any], Margin]] = []
    for language, found in comparison["by_language"].items():
        margin = limits.margin(language)
        if margin is not None:
            judged.append((f"error rate in {language}", found, margin))
    for tag in limits.slices:
        for value, found in comparison["slices"].get(tag, {}).items():
            margin = limits.margin(found["language"])
            if margin is not None:
                judged.append((f"error rate in {tag} {value}", found, margin))
    worse = [Excess(found, margin).p_worse() for _, found, margin in judged]
    checks = [
        _non_inferior(name, found, margin, adjusted)
        for (name, found, margin), adjusted in zip(judged, holm(worse), strict=True)
    ]
    if limits.max_wer is not None:
        checks += [
            _absolute(language, found, limits.max_wer)
            for language, found in comparison["by_language"].items()
        ]
    return checks


def _non_inferior(name: str, found: dict[str, Any], margin: Margin, adjusted: float) -> Check:
    excess = Excess(found, margin)
    measured = (
        f"{name}: candidate {_percent(found['candidate'])}, stable {_percent(found['stable'])}; "
        f"difference {_points(found['difference'])}"
    )
    outcome, verdict, needed = three_ways(
        found, excess.kept, adjusted <= MISS_REFUSED, f"the margin of {margin}", excess.clips_needed
    )
    return Check(
        name, outcome, found["high"], margin.absolute or margin.relative,
        f"{measured}{_interval(found)}, {verdict}", needed,
    )  # fmt: skip


def _absolute(language: str, found: dict[str, Any], limit: float) -> Check:
    rate = found["candidate"]
    return Check(
        f"absolute error rate in {language}",
        Outcome.KEPT if rate <= limit else Outcome.BROKEN,
        rate,
        limit,
        f"the candidate's error rate in {language} is {_percent(rate)}, "
        f"at most {_percent(limit)} is allowed",
    )


def _shares(comparison: Comparison, limits: GateLimits) -> list[Check]:
    asked = [
        ("hallucination", "hallucination rate", "words on recordings without speech",
         limits.hallucination_margin),
        ("repetition", "looping", "transcripts that loop", limits.repetition_margin),
        ("language", "language errors", "wrong language", limits.language_accuracy_margin),
        ("failures", "failures", "requests without an answer", limits.failure_margin),
    ]  # fmt: skip
    checks = []
    for key, name, words, margin in asked:
        found = comparison[key]
        if found is None or margin is None:
            continue
        if key == "failures" and not found["candidate"]:
            continue  # nothing failed: judged by `max_failure_rate` alone
        checks.append(_rise(name, words, found, margin))
    return checks


def _rise(name: str, words: str, found: dict[str, Any], margin: float) -> Check:
    excess = Excess(found, Margin(absolute=margin))
    outcome, verdict, needed = three_ways(
        found,
        excess.kept,
        excess.p_worse() <= MISS_REFUSED,
        f"the margin of {_points(margin)}",
        excess.clips_needed,
    )
    return Check(
        name,
        outcome,
        found["high"],
        margin,
        f"{words} ({found['num_clips']} judged): candidate {_percent(found['candidate'])}, stable "
        f"{_percent(found['stable'])}; difference {_points(found['difference'])}"
        f"{_interval(found)}, {verdict}",
        needed,
    )


def _failures(comparison: Comparison, limits: GateLimits) -> Check:
    failed = comparison["candidate"]["failures"]
    rate = failed["rate"] or 0.0
    codes = ", ".join(f"{code} {n}" for code, n in failed["codes"].items())
    return Check(
        "failure rate",
        Outcome.KEPT if rate <= limits.max_failure_rate else Outcome.BROKEN,
        rate,
        limits.max_failure_rate,
        f"{failed['count']} of {failed['of']} requests to the candidate failed"
        + (f" ({codes})" if codes else "")
        + f"; at most {_percent(limits.max_failure_rate)} is allowed",
    )


def _interval(found: dict[str, Any]) -> str:
    if found["low"] is None:
        return ""
    ends = f"{_points(found['low'])} to {_points(found['high'])}"
    return f" with {found['level']:.0%} interval {ends}"


def _percent(rate: float) -> str:
    return f"{rate * 100:.2f} %"


def _points(rate: float) -> str:
    return f"{rate * 100:+.2f} points"
