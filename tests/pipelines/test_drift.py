"""Drift of unpaired samples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipelines.lib.drift import DriftLimits, find_drift, psi
from pipelines.lib.evaluation import Report, ScoringOptions, build_report
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip


def sample(seed: int, *, known: bool = True, number: int = 150, **changes: Any) -> Report:
    """Recordings of five words with a tenth of the words wrong."""
    rng = np.random.default_rng(seed)
    clips, records = [], []
    for i in range(number):
        text = "one small step for men"
        wrong = changes.get("wrong", 0.1)
        said = " ".join("x" if rng.random() < wrong else word for word in text.split())
        if changes.get("loops") and i % 10 == 0:
            said = "no " * 9
        language = "Spanish" if rng.random() < changes.get("spanish", 0.1) else "English"
        confidence = float(np.clip(rng.normal(changes.get("confidence", 0.9), 0.03), 0, 1))
        clips.append(Clip(f"{seed}-{i}", "/a.wav", text if known else None, duration_s=3.0))
        records.append(Record(clips[-1].id, said, language, confidence, 3.0, latency_s=0.1))
    for i in range(changes.get("failed", 0)):
        records[i] = Record(clips[i].id, "", error="overloaded")
    return build_report(clips, records, ScoringOptions(num_resamples=200))


def drifted(current: Report) -> list[str]:
    return [check.name for check in find_drift(sample(1), current) if not check.passed]


def test_the_same_traffic_has_not_drifted() -> None:
    assert drifted(sample(2)) == []
    assert drifted(sample(3, known=False)) == []


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"wrong": 0.2}, "error rate"),
        ({"confidence": 0.8}, "doubt"),
        ({"loops": True, "known": False}, "looping"),
        ({"spanish": 0.5}, "language mix"),
        ({"failed": 10}, "failure rate"),
    ],
)
def test_each_kind_of_drift_is_named(changes: dict[str, Any], check: str) -> None:
    assert drifted(sample(4, **changes)) == [check]


def test_without_references_there_is_no_error_rate_to_judge() -> None:
    names = [c.name for c in find_drift(sample(1), sample(2, known=False), DriftLimits())]
    assert names == ["doubt", "looping", "language mix", "durations", "failure rate"]


def test_psi_by_hand() -> None:
    assert psi(Counter(a=1, b=1), Counter(a=5, b=5)) == 0
    expected = (0.75 - 0.5) * np.log(1.5) + (0.25 - 0.5) * np.log(0.5)
    assert psi(Counter(a=2, b=2), Counter(a=3, b=1)) == pytest.approx(expected)
    assert 0 < psi(Counter(a=1), Counter(b=1)) < float("inf")
