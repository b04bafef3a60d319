"""Recordings, reports and systems made up for the tests: numbers that are counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.lib.evaluation import Report, ScoringOptions, build_report
from pipelines.lib.gate import Decision, GateLimits, judge_reports
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip

OPTIONS = ScoringOptions("clip", num_resamples=500)


def clip(i: int, text: str, language: str | None = "English", **tags: str) -> Clip:
    return Clip(
        f"c{i}",
        f"/data/{i}.wav",
        text,
        language,
        duration_s=1.0 + i,
        speaker=f"s{i % 2}",
        tags={k: (v,) for k, v in tags.items()},
    )


def record(i: int, text: str, language: str | None = "English", **values: Any) -> Record:
    defaults: dict[str, Any] = {
        "confidence": 0.9,
        "duration_s": 1.0 + i,
        "latency_s": 0.1 + i / 100,
    }
    return Record(f"c{i}", text, language, **{**defaults, **values})


CLIPS = [
    clip(0, "the cat sat down", noise="street"),
    clip(1, "good morning", noise="none"),
    clip(2, "今天天气好", "Chinese", noise="street"),
    clip(3, "", None, noise="street"),
    clip(4, "", None),
    clip(5, "so it goes"),
]
RECORDS = [
    record(0, "the bat sat", confidence=0.5),
    record(1, "good morning"),
    record(2, "今天天汽好", "Chinese", confidence=0.4),
    record(3, "thank you", "English"),
    record(4, "", None, confidence=None),
    record(5, "", error="overloaded", error_message="full", latency_s=None, confidence=None),
]


def made_up_report() -> Report:
    return build_report(
        CLIPS, RECORDS, ScoringOptions(num_resamples=500, price_per_hour=3.0), title="made up"
    )


def systems(
    bad: float,
    good: float,
    number: int = 120,
    sure_if_wrong: tuple[float | None, float | None] = (None, None),
    **changes: Any,
) -> tuple[Report, Report]:
    """Two systems on the same recordings that get words wrong at these rates, and silence."""
    rng = np.random.default_rng(3)
    clips = [clip(i, " ".join(f"w{c}" for c in "klmnopqr")) for i in range(number)]
    clips += [clip(number + i, "", None) for i in range(20)]
    reports = []
    for rate, values, if_wrong in zip((bad, good), ({}, changes), sure_if_wrong, strict=True):
        records = []
        for c in clips:
            words = [f"x{w}" if rng.random() < rate else w for w in c.text.split()]
            text = " ".join(words) or values.get("silence", "")
            latency = rng.uniform(0.1, 0.2) * values.get("slower", 1.0)
            detected, sure = values.get("detected", "English"), values.get("confidence", 0.9)
            if if_wrong is not None and words != c.text.split():
                sure = if_wrong
            records.append(
                Record(
                    c.id, text, detected, sure, 3.0, latency_s=latency,
                    num_repeats_removed=values.get("repeats"),
                )
            )  # fmt: skip
        for i in range(values.get("failed", 0)):
            records[i] = Record(clips[i].id, "", error="overloaded")
        reports.append(build_report(clips, records, OPTIONS, title=f"{rate:.0%}"))
    return reports[0], reports[1]


# Limits that 120 recordings with speech and 20 without can decide on.
LOOSE: dict[str, Any] = {
    "hallucination_margin": 0.3,
    "repetition_margin": 0.05,
    "language_accuracy_margin": 0.05,
    "failure_margin": 0.05,
    "calibration_margin": 0.5,
}


def judged(stable: Report, candidate: Report, **limits: Any) -> Decision:
    return judge_reports(stable, candidate, GateLimits.from_mapping(limits))[1]


def failed_checks(stable: Report, candidate: Report, **limits: Any) -> list[str]:
    decision = judged(stable, candidate, **{**LOOSE, **limits})
    assert decision.accepted == (not [c for c in decision.checks if not c.passed])
    return [c.name for c in decision.checks if not c.passed]
