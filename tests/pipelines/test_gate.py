"""The gate's decisions where they matter: languages apart, speakers, slices, relative margins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.lib.evaluation import Report, ScoringOptions, build_report
from pipelines.lib.gate import Check, Decision, GateLimits, Verdict, judge_reports
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip

ENGLISH = ["bring", "your", "warm", "coat", "because", "tonight", "feels", "very", "cold"]
CHINESE = "今天天气很好我们出去走走"
LOOSE: dict[str, Any] = {"repetition_margin": 0.1, "language_accuracy_margin": 0.1}


def build(
    counts: dict[str, int],
    rates: dict[str, float],
    *,
    speakers: int = 0,
    seed: int = 0,
    tag_rates: dict[str, float] | None = None,
) -> Report:
    """A report with so many clips a language, words or characters replaced at these rates."""
    rng = np.random.default_rng(seed)
    clips, records = [], []
    for language, number in counts.items():
        units = ENGLISH if language == "English" else list(CHINESE)
        for i in range(number):
            device = "phone" if i % 2 else "desk"
            rate = (tag_rates or {}).get(device, rates.get(language, 0.0))
            said = [("zog" if language == "English" else "错") if rng.random() < rate else u
                    for u in units]  # fmt: skip
            joiner = " " if language == "English" else ""
            name = f"{language}-{i}"
            speaker = f"s{i % speakers}" if speakers else None
            clips.append(Clip(name, f"/{name}.wav", joiner.join(units), language, 3.0, speaker,
                              tags={"device": (device,)}))  # fmt: skip
            records.append(
                Record(name, joiner.join(said), language, 0.9, 3.0, latency_s=0.2 + i % 5 / 100)
            )
    return build_report(clips, records, ScoringOptions(num_resamples=200))


def judged(stable: Report, candidate: Report, **limits: Any) -> Decision:
    return judge_reports(stable, candidate, GateLimits.from_mapping({**LOOSE, **limits}))[1]


def named(decision: Decision, name: str) -> Check:
    return next(check for check in decision.checks if check.name == name)


def test_a_small_language_that_got_worse_is_refused_beside_a_large_one_that_did_not() -> None:
    """20 English clips from 0 to 10 % WER beside 200 Chinese ones without an error."""
    counts = {"Chinese": 200, "English": 20}
    stable, candidate = build(counts, {}), build(counts, {"English": 0.10})
    decision = judged(stable, candidate, calibration_margin=None)
    assert decision.verdict is Verdict.REFUSED
    assert [c.name for c in decision.checks if c.outcome == "broken"] == ["error rate in English"]
    assert named(decision, "error rate in Chinese").outcome != "broken"


def test_words_and_characters_are_never_added_up() -> None:
    counts = {"Chinese": 40, "English": 40}
    comparison, _ = judge_reports(build(counts, {}), build(counts, {"English": 0.1}), GateLimits())
    assert comparison["errors"] is None
    assert set(comparison["by_metric"]) == {"cer", "wer"}
    assert set(comparison["by_language"]) == {"Chinese", "English"}


def test_an_equal_candidate_is_accepted_or_undecided_but_never_refused() -> None:
    for number in (30, 200, 1000):
        same = build({"English": number}, {"English": 0.05})
        decision = judged(same, same)
        assert decision.verdict is not Verdict.REFUSED
    assert decision.verdict is Verdict.ACCEPTED


def test_few_speakers_are_no_evidence() -> None:
    counts = {"English": 300}
    stable = build(counts, {"English": 0.05}, speakers=3)
    decision = judged(stable, build(counts, {"English": 0.2}, speakers=3, seed=1))
    check = named(decision, "error rate in English")
    assert decision.verdict is Verdict.UNDECIDED
    assert "not enough speakers: 3 clusters, at least 10 are needed" in check.reason
    assert check.clips_needed == 1001


def test_margins_by_language_and_relative() -> None:
    counts = {"English": 600}
    stable = build(counts, {"English": 0.10})
    candidate = build(counts, {"English": 0.12}, seed=1)
    assert not judged(stable, candidate).accepted
    wide = {"wer_margin": 0.0, "calibration_margin": None}
    assert judged(stable, candidate, language_margins={"English": "80%"}, **wide).accepted
    refused = judged(stable, candidate, language_margins={"English": "1%"}, **wide)
    assert "beyond the margin of +1.0% of the stable rate" in refused.reasons[0]
    ignored = judged(stable, candidate, language_margins={"en": None}, **wide)
    assert [c.name for c in ignored.checks if c.name.startswith("error rate")] == []


def test_slices_named_by_the_user_are_judged_and_named() -> None:
    counts = {"English": 400}
    stable = build(counts, {})
    candidate = build(counts, {}, tag_rates={"phone": 0.08, "desk": 0.0})
    decision = judged(stable, candidate, slices="device", calibration_margin=None)
    assert "error rate in device phone" in [
        c.name for c in decision.checks if c.outcome == "broken"
    ]
    assert named(decision, "error rate in device desk").passed
    with pytest.raises(Exception, match="slices: 'room' is a tag of no recording"):
        judged(stable, candidate, slices=("room",))


def test_the_number_of_clips_that_would_decide_does_decide() -> None:
    few = build({"English": 60}, {"English": 0.03})
    decision = judged(few, few)
    check = named(decision, "error rate in English")
    assert check.clips_needed is not None
    enough = build({"English": check.clips_needed + 1}, {"English": 0.03})
    assert named(judged(enough, enough), "error rate in English").passed


def test_a_candidate_that_hears_better_may_be_surer() -> None:
    """Mean confidence rises with accuracy; only a shift on what both heard right is one."""
    clips = [Clip(f"c{i}", f"/{i}.wav", " ".join(ENGLISH), "English") for i in range(400)]

    def heard(num_wrong: int, right: float) -> Report:
        records = [
            Record(c.id, "zog" if i < num_wrong else c.text or "", "English",
                   0.3 if i < num_wrong else right, latency_s=0.1 + i % 7 / 100)
            for i, c in enumerate(clips)
        ]  # fmt: skip
        return build_report(clips, records, ScoringOptions(num_resamples=200))

    stable, better, shifted = heard(100, 0.9), heard(10, 0.9), heard(10, 0.99)
    assert judged(stable, better).accepted
    decision = judged(stable, shifted)
    assert [c.name for c in decision.checks if c.outcome == "broken"] == ["confidence"]
