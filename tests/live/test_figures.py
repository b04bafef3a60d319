"""The figures that live speech must reach on the embedded checkpoint: a short form, and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor.engine import EngineClient
from predictor.live.options import SessionConfig
from tests.live.figure import FIGURE, README, device_costs, draw, minutes_text, put
from tests.live.figures import flatness, judge, measure, table
from tests.live.play import Studio
from tests.live.streams import alone, clips, conversations

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "live" / "results" / "cpu.json"


def test_a_conversation_reaches_the_goals(studio: Studio, engine: EngineClient) -> None:
    figures = measure(studio, engine, [conversations(30.0)[3]])
    # One word is more than a percent of so short a stream.
    assert judge(figures, **{"error %": 4.0, "decoded mean tokens": 6.0}) == []


def test_the_last_minute_costs_what_the_first_one_does(
    studio: Studio, engine: EngineClient
) -> None:
    first, last = flatness(studio, engine, 2)["rows"]
    assert last["steps"] == pytest.approx(first["steps"], rel=0.05)
    assert last["prefilled tokens"] == pytest.approx(first["prefilled tokens"], rel=0.05)


def test_the_readme_has_the_table_of_the_results() -> None:
    readme = README.read_text("utf-8")
    shown = readme.partition("<!-- live:begin -->")[2].partition("<!-- live:end -->")[0].strip()
    assert shown == table(json.loads(RESULTS.read_text("utf-8")))


def test_the_readme_has_what_the_gpu_results_say() -> None:
    readme = README.read_text("utf-8")
    assert "<!-- streams:begin -->" in readme
    assert "<!-- minutes:begin -->" in readme
    assert readme == put(readme), "run: python -m tests.live.figure"


def test_a_devices_minutes_are_drawn_and_told() -> None:
    measured = {
        "minutes": [{"minute": n, "device_ms_a_step": 0.5 + n / 1000} for n in range(1, 61)],
        "flatness": {"largest_deviation_percent": 2.9, "trend_percent": -1.5},
        "official": [
            {"age_s": 60.0, "device_ms_a_step": 12.3},
            {"age_s": 3600.0, "device_ms_a_step": 480.0},
            {"age_s": 7200.0, "error": "no room"},
        ],
    }
    text = minutes_text(measured)
    assert "0.501 ms of the device in minute 1 and 0.560 in minute 60" in text
    assert text.endswith("12 at 1 min, 480 at 60 min.")
    drawn = "".join(device_costs(measured))
    assert drawn.count("<path d=") == 2
    assert "NaN" not in drawn


def test_the_figure_is_drawn_from_the_results() -> None:
    assert FIGURE.read_text("utf-8") == draw()


def test_the_results_reach_the_goals() -> None:
    for row in json.loads(RESULTS.read_text("utf-8"))["rows"]:
        assert row["characters taken back"] == 0
        assert row["wrong languages"] == 0
        assert row["error %"] <= 1.1


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step_s", [0.25, 0.5, 1.0])
def test_all_conversations(studio: Studio, engine: EngineClient, step_s: float) -> None:
    config = SessionConfig(step_s=step_s)
    figures = measure(studio, engine, conversations(), config=config)
    later = step_s - 0.5
    assert (
        judge(
            figures,
            **{
                "shown p50 s": 0.25 + max(0.0, later) / 2,
                "shown p90 s": 0.5 + max(0.0, later),
                "committed p50 s": 0.8 + max(0.0, later) * 1.5,
                "committed p90 s": 1.0 + max(0.0, later) * 2,
                "decoded mean tokens": 5.5 + max(0.0, later) * 8,
                "decoded p99 tokens": 17 + max(0.0, later) * 20,
            },
        )
        == []
    )


SETS = [("en-short", 1.1), ("zh-short", 0.6), ("en-long", 2.0), ("zh-long", 0.8)]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("prefix", "error"), SETS)
def test_all_clips(studio: Studio, engine: EngineClient, prefix: str, error: float) -> None:
    streams = [alone(name) for name in sorted(clips()) if name.startswith(prefix)]
    figures: dict[str, Any] = measure(studio, engine, streams)
    assert figures["error %"] <= error
    assert figures["characters taken back"] == 0
    assert figures["wrong languages"] == 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_an_hour_costs_the_same_in_every_minute(studio: Studio, engine: EngineClient) -> None:
    first, *others = flatness(studio, engine, 60)["rows"]
    for name in ("steps", "encoded s", "prefilled tokens", "decoded tokens"):
        for row in others:
            assert row[name] == pytest.approx(first[name], rel=0.05)
