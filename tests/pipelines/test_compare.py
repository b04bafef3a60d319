"""Comparisons of two systems, and what the gate says of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipelines.lib.compare import compare_reports
from pipelines.lib.errors import OptionError
from pipelines.lib.gate import GateLimits, Verdict
from tests.pipelines.made_up import LOOSE, failed_checks, judged, systems


def test_the_gate_accepts_better_and_equal_systems() -> None:
    better = systems(0.20, 0.08)
    assert failed_checks(*better) == []
    assert failed_checks(better[0], better[0], wer_margin=0.01) == []


def test_the_gate_refuses_worse_systems_and_says_why() -> None:
    stable, candidate = systems(0.08, 0.20)
    assert failed_checks(stable, candidate) == ["error rate in English"]
    assert failed_checks(stable, candidate, wer_margin=0.3) == []
    assert failed_checks(stable, candidate, wer_margin=0.3, max_wer=0.1) == [
        "absolute error rate in English"
    ]
    assert failed_checks(stable, candidate, wer_margin=0.3, language_margins={"en": 0.0}) == [
        "error rate in English"
    ]
    decision = judged(stable, candidate, calibration_margin=None)
    assert decision.verdict is Verdict.REFUSED
    (reason,) = decision.reasons
    assert re.fullmatch(
        r"error rate in English: candidate \d+\.\d\d %, stable \d+\.\d\d %; difference "
        r"\+\d+\.\d\d points with 95% interval \+\d+\.\d\d points to \+\d+\.\d\d points, beyond "
        r"the margin of \+0\.50 points",
        reason,
    )


def test_what_too_few_recordings_cannot_show_is_undecided_with_the_number_that_would() -> None:
    stable, candidate = systems(0.10, 0.10, number=40)
    decision = judged(stable, candidate, **LOOSE)
    assert decision.verdict is Verdict.UNDECIDED
    check = next(c for c in decision.checks if c.name == "error rate in English")
    assert check.clips_needed is None or check.clips_needed > 40
    assert "too close to the margin of +0.50 points to tell" in check.reason
    assert "clips" in failed_checks(stable, candidate, min_clips=41)


@pytest.mark.parametrize(
    ("changes", "limits", "check"),
    [
        ({"slower": 2.0}, {}, "p95 latency ratio"),
        ({"slower": 1.1}, {"max_p95_latency_s": 0.15}, "p95 latency"),
        ({"silence": "thank you"}, {}, "hallucination rate"),
        ({"failed": 3}, {"failure_margin": None}, "failure rate"),
        ({"detected": "German"}, {}, "language errors"),
        ({"confidence": 0.7}, {}, "confidence"),
        ({"repeats": 1}, {}, "looping"),
    ],
)
def test_the_gate_watches_more_than_words(
    changes: dict[str, Any], limits: dict[str, Any], check: str
) -> None:
    assert failed_checks(*systems(0.2, 0.05, **changes), **limits) == [check]


def test_a_candidate_that_is_sure_of_what_is_wrong_is_refused() -> None:
    pair = systems(0.05, 0.05, sure_if_wrong=(0.1, 0.9))
    limits = {"wer_margin": 0.1, "calibration_margin": 0.1}
    assert failed_checks(*pair, **limits) == ["calibration"]
    assert failed_checks(pair[1], pair[0], **limits) == []


def test_gate_limits_are_checked() -> None:
    with pytest.raises(OptionError, match="gate: unknown limit 'wer'"):
        GateLimits.from_mapping({"wer": 1})
    with pytest.raises(OptionError, match="gate: wer_margin: expected a number or a share"):
        GateLimits.from_mapping({"wer_margin": "much"})
    with pytest.raises(OptionError, match="gate: min_clips: expected a number, found '1'"):
        GateLimits.from_mapping({"min_clips": "1"})
    with pytest.raises(OptionError, match=r"gate: language_margins: .*Klingon"):
        GateLimits.from_mapping({"language_margins": {"Klingon": 0.1}})
    with pytest.raises(OptionError, match="gate: wer_margin: -1 is below 0"):
        GateLimits.from_mapping({"wer_margin": -1})


def test_a_failure_of_one_version_counts_as_unheard_by_it() -> None:
    stable, candidate = systems(0.1, 0.1, failed=5)
    comparison = compare_reports(stable, candidate)
    assert (comparison["num_pairs"], comparison["num_failed_once"]) == (135, 5)
    found = comparison["by_language"]["English"]
    assert found["num_clips"] == 120
    rows = candidate["clips"]
    assert found["candidate"] == sum(r["errors"] for r in rows[:120]) / (8 * 120)
    assert all(row["errors"] == 8 for row in rows[:5])
    turned = compare_reports(candidate, stable)
    assert turned["failures"]["difference"] == -comparison["failures"]["difference"]


def test_recordings_that_both_failed_say_nothing() -> None:
    _, candidate = systems(0.1, 0.1, failed=5)
    both = compare_reports(candidate, candidate)
    assert (both["num_failed_twice"], both["by_language"]["English"]["num_clips"]) == (5, 115)


def test_reports_of_other_recordings_are_not_compared() -> None:
    stable, _ = systems(0.1, 0.1)
    other, _ = systems(0.1, 0.1, number=50)
    with pytest.raises(OptionError, match="different manifests"):
        compare_reports(stable, other)
