"""The benchmark of a step's cost by the minute runs, on a small shape and the CPU."""

from __future__ import annotations

import argparse

import pytest

from tests.bench.live_minutes import flatness, measured


@pytest.mark.soak
def test_minutes_and_the_authors_scheme_are_measured() -> None:
    asked = argparse.Namespace(
        shape="tiny", device="cpu", streams=2, step_s=0.5, minutes=2, ages_s=[4.0, 16.0],
        prepare_s=0.0, budget_s=1e6,
    )  # fmt: skip
    ours, theirs = measured(asked)
    assert [row["minute"] for row in ours["minutes"]] == [1, 2]
    assert [row["steps"] for row in ours["minutes"]] == [240, 240]
    assert all(row["device_ms_a_step"] > 0 for row in ours["minutes"])
    assert [row["age_s"] for row in theirs["official"]] == [4.0, 16.0]
    assert all(row["device_ms_a_step"] > 0 for row in theirs["official"])


def test_flatness_is_the_largest_distance_from_the_middle() -> None:
    rows = [{"device_ms_a_step": cost} for cost in (1.0, 1.02, 1.0, 0.97, 1.01)]
    assert flatness(rows) == {
        "median_ms": 1.0, "largest_deviation_percent": 3.0, "last_over_first_percent": 1.0,
        "trend_percent": -1.2,
    }  # fmt: skip
