"""The figures that live speech must reach on the embedded checkpoint: a short form, and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor.engine import EngineClient
from predictor.live.options import SessionConfig
from tests.live.figure import FIGURE, STREAMS, draw, streams_table
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
    readme = (ROOT / "predictor" / "live" / "README.md").read_text("utf-8")
    shown = readme.partition("<!-- live:begin -->")[2].partition("<!-- live:end -->")[0].strip()
    assert shown == table(json.loads(RESULTS.read_text("utf-8")))


def test_the_readme_has_the_table_of_the_streams() -> None:
    readme = (ROOT / "predictor" / "live" / "README.md").read_text("utf-8")
    shown = readme.partition("<!-- streams:begin -->")[2].partition("<!-- streams:end -->")[0]
    assert shown.strip() == streams_table(json.loads(STREAMS.read_text("utf-8"))["rows"])


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
