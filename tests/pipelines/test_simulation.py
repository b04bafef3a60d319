"""Whether intervals hold as often as they say, and how often the gate is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipelines.simulation import Cell, simulate, summarize

FIGURES = Path(__file__).with_name("gate_simulation.json")
README = Path(__file__).parents[2] / "pipelines" / "README.md"
SHORT = 150


@pytest.mark.parametrize(
    "cell",
    [
        Cell(0.003, 0, 50, heavy=False, worse="at the margin"),
        Cell(0.02, 10, 200, heavy=False, worse="at the margin"),
        Cell(0.08, 40, 200, heavy=True, worse="equal"),
        Cell(0.2, 0, 200, heavy=False, worse="at twice the margin"),
    ],
)
def test_a_short_simulation(cell: Cell) -> None:
    """Three standard errors around what the long one promises."""
    found = simulate(cell, SHORT)
    assert found.covered >= 0.93 - 3 * (0.93 * 0.07 / SHORT) ** 0.5
    allowed = {"equal": 1.0, "at the margin": 0.03, "at twice the margin": 0.005}[cell.worse]
    assert found.accepted <= allowed + 3 * (allowed * (1 - allowed) / SHORT) ** 0.5 + 1 / SHORT


def test_the_recorded_figures_keep_the_promises() -> None:
    recorded = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert recorded["summary"] == summarize(recorded["cells"])
    assert recorded["summary"]["coverage"]["least"] >= 0.93
    assert recorded["summary"]["rate_coverage"]["least"] >= 0.93
    assert recorded["summary"]["accepted_at_the_margin"]["most"] <= 0.03
    assert recorded["summary"]["accepted_at_twice_the_margin"]["most"] <= 0.005


def test_the_readme_quotes_the_recorded_figures() -> None:
    summary = json.loads(FIGURES.read_text(encoding="utf-8"))["summary"]
    text = README.read_text(encoding="utf-8")
    coverage = summary["coverage"]
    for number in (
        f"{coverage['least']:.1%}",
        f"{coverage['mean']:.1%}",
        f"{summary['accepted_at_the_margin']['most']:.1%}",
        f"{summary['accepted_at_twice_the_margin']['most']:.1%}",
    ):
        assert number.replace("%", " %") in text


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("wer", [0.003, 0.02, 0.08, 0.2])
@pytest.mark.parametrize("speakers", [0, 10, 40])
def test_a_long_simulation(wer: float, speakers: int) -> None:
    """Every kind of evaluation of the recorded figures, anew with another seed."""
    for heavy in (False, True):
        for clips in (50, 200, 1000):
            for worse, allowed in (("at the margin", 0.03), ("at twice the margin", 0.005)):
                found = simulate(Cell(wer, speakers, clips, heavy, worse), 2000, seed=2)
                assert found.covered >= 0.925
                assert found.accepted <= allowed + 0.005
