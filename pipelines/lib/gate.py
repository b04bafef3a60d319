"""The decision whether a candidate may replace the stable version, with reasons in words.

Word errors are judged for non-inferiority: the whole paired interval of (candidate - stable) must
lie below the margin. A comparison too small to show that is refused, not waved through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipelines.lib.compare import Comparison
from pipelines.lib.errors import OptionError


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a candidate must keep to. Rates are shares (0.01 = 1 %), not percent."""

    wer_margin: float = 0.005  # most that the error rate may rise, absolute
    language_wer_margin: float | None = None  # the same for each language; None = not judged
    max_wer: float | None = None  # the candidate's own error rate; None = not judged
    p95_latency_ratio: float = 1.25  # candidate's p95 over stable's
    max_p95_latency_s: float | None = None
    hallucination_margin: float = 0.02  # most that the hallucination rate may rise, absolute
    max_failure_rate: float = 0.01  # share of requests without a transcript
    min_clips: int = 30  # recordings with speech that both must have answered

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GateLimits:
        """Limits from a configuration; OptionError names an unknown key or a wrong value."""
        known = {f.name for f in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise OptionError(f"gate: unknown limit {key!r}, known: {', '.join(sorted(known))}")
            optional = value is None and getattr(cls(), key) is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise OptionError(f"gate: {key}: expected a number, found {value!r}")
            if not optional and value < 0:
                raise OptionError(f"gate: {key}: {value} is below 0")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Check:
    """One limit, judged."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    reason: str  # a sentence


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict: accepted when every check passed."""

    accepted: bool
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> list[str]:
        """Why it was refused, or all that spoke for it."""
        return [c.reason for c in self.checks if self.accepted or not c.passed]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "checks": [asdict(c) for c in self.checks], "reasons": self.reasons}


def decide(comparison: Comparison, limits: GateLimits) -> Decision:
    """Judge a candidate by a comparison with the stable version."""
    checks = [
        _enough(comparison, limits),
        *_word_errors(comparison, limits),
        *_latency(comparison, limits),
        *_hallucination(comparison, limits),
        _failures(comparison, limits),
    ]
    return Decision(all(check.passed for check in checks), tuple(checks))


def _enough(comparison: Comparison, limits: GateLimits) -> Check:
    errors = comparison["errors"]
    number = errors["num_clips"] if errors else 0
    return Check(
        "clips",
        number >= limits.min_clips,
        number,
        limits.min_clips,
        f"{number} recordings with speech were answered by both, "
        f"at least {limits.min_clips} are needed",
    )


def _word_errors(comparison: Comparison, limits: GateLimits) -> list[Check]:
    errors = comparison["errors"]
    if errors is None:
        return []
    checks = [_non_inferior("error rate", errors, limits.wer_margin)]
    if limits.language_wer_margin is not None:
        checks += [
            _non_inferior(f"error rate in {name}", found, limits.language_wer_margin)
            for name, found in comparison["by_language"].items()
        ]
    if limits.max_wer is not None:
        rate = errors["candidate"]
        checks.append(
            Check(
                "absolute error rate",
                rate <= limits.max_wer,
                rate,
                limits.max_wer,
                f"the candidate's error rate is {_percent(rate)}, "
                f"at most {_percent(limits.max_wer)} is allowed",
            )
        )
    return checks


def _non_inferior(name: str, found: Mapping[str, Any], margin: float) -> Check:
    passed = found["high"] <= margin
    verdict = "within" if passed else "beyond"
    return Check(
        name,
        passed,
        found["high"],
        margin,
        f"{name}: candidate {_percent(found['candidate'])}, stable {_percent(found['stable'])}; "
        f"difference {_points(found['difference'])} with {found['level']:.0%} interval "
        f"{_points(found['low'])} to {_points(found['high'])}, "
        f"{verdict} the margin of {_points(margin)}",
    )


def _latency(comparison: Comparison, limits: GateLimits) -> list[Check]:
    stable, candidate = comparison["latency"]["stable"], comparison["latency"]["candidate"]
    if stable is None or candidate is None:
        return [
            Check("p95 latency", False, None, None, "p95 latency: one service answered nothing")
        ]
    ratio = candidate["p95"] / stable["p95"] if stable["p95"] else float("inf")
    measured = f"p95 latency: candidate {candidate['p95']:.3f} s, stable {stable['p95']:.3f} s"
    checks = [
        Check(
            "p95 latency ratio",
            ratio <= limits.p95_latency_ratio,
            ratio,
            limits.p95_latency_ratio,
            f"{measured}; {ratio:.2f} times, at most {limits.p95_latency_ratio:g} times is allowed",
        )
    ]
    if limits.max_p95_latency_s is not None:
        checks.append(
            Check(
                "p95 latency",
                candidate["p95"] <= limits.max_p95_latency_s,
                candidate["p95"],
                limits.max_p95_latency_s,
                f"{measured}; at most {limits.max_p95_latency_s:g} s is allowed",
            )
        )
    return checks


def _hallucination(comparison: Comparison, limits: GateLimits) -> list[Check]:
    found = comparison["hallucination"]
    if found is None:
        return []
    return [
        Check(
            "hallucination rate",
            found["difference"] <= limits.hallucination_margin,
            found["difference"],
            limits.hallucination_margin,
            f"words on {found['num_clips']} recordings without speech: candidate "
            f"{_percent(found['candidate'])}, stable {_percent(found['stable'])}; a rise of at "
            f"most {_points(limits.hallucination_margin)} is allowed",
        )
    ]


def _failures(comparison: Comparison, limits: GateLimits) -> Check:
    failed = comparison["candidate"]["failures"]
    rate = failed["rate"] or 0.0
    codes = ", ".join(f"{code} {n}" for code, n in failed["codes"].items())
    return Check(
        "failure rate",
        rate <= limits.max_failure_rate,
        rate,
        limits.max_failure_rate,
        f"{failed['count']} of {failed['of']} requests to the candidate failed"
        + (f" ({codes})" if codes else "")
        + f"; at most {_percent(limits.max_failure_rate)} is allowed",
    )


def _percent(rate: float) -> str:
    return f"{rate * 100:.2f} %"


def _points(rate: float) -> str:
    return f"{rate * 100:+.2f} points"
