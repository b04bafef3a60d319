"""Plans against the textbook formula, and against the gate itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipelines.cli import main
from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import build_report, write_report
from pipelines.lib.expected import Expected
from pipelines.lib.intervals import paired_sums
from pipelines.lib.journal import Record
from pipelines.lib.limits import Margin
from pipelines.lib.manifest import Clip
from pipelines.lib.margins import MISS_AT_MARGIN, Excess
from pipelines.lib.plan import needed


def test_large_plans_follow_the_textbook() -> None:
    """n = (z_alpha + z_power)² σ² / margin², for a normal mean."""
    expected = Expected(rate=0.08, words=10, burst=2, shared=0.5, power=0.8)
    found = needed(Margin(absolute=0.003), expected)
    variance = 2 * 0.08 * 0.5 * 2 / 10
    z = stats.norm.isf(MISS_AT_MARGIN) + stats.norm.ppf(0.8)
    assert found.clips == pytest.approx(z**2 * variance / 0.003**2, rel=0.05)
    assert found.hours == pytest.approx(found.clips * 5 / 3600)


def test_the_plan_suffices_for_the_gate() -> None:
    """Recordings made up as the plan expects them: the gate accepts about as often as promised."""
    expected = Expected(rate=0.05, words=12, burst=1.0, shared=0.5, power=0.8)
    margin = Margin(absolute=0.01)
    clips = needed(margin, expected).clips
    rng = np.random.default_rng(4)
    accepted = 0
    for _ in range(150):
        units = np.full(clips, 12)
        both = rng.poisson(0.025 * 12, clips)
        first, second = (both + rng.poisson(0.025 * 12, clips) for _ in range(2))
        found = paired_sums(first.tolist(), second.tolist(), units.tolist())
        entry = {"sums": found.sums, "num_changed": found.num_changed, "size": found.size}
        accepted += Excess({**entry, "num_clips": clips}, margin).kept()
    assert accepted / 150 == pytest.approx(0.8, abs=0.1)


def test_what_makes_a_plan_longer() -> None:
    base = needed(Margin(absolute=0.005), Expected(rate=0.05)).clips
    assert needed(Margin(absolute=0.0025), Expected(rate=0.05)).clips > 3 * base
    assert needed(Margin(absolute=0.005), Expected(rate=0.10)).clips > 1.8 * base
    assert needed(Margin(absolute=0.005), Expected(rate=0.05, power=0.95)).clips > 1.3 * base
    speakers = Expected(rate=0.05, clips_per_speaker=20)
    assert needed(Margin(absolute=0.005), speakers).clips > 1.5 * base
    assert needed(Margin(relative=0.1), Expected(rate=0.05)).clips == base  # 10 % of 5 %


def test_a_perfect_pair_needs_the_rule_of_three() -> None:
    found = needed(Margin(absolute=0.005), Expected(rate=0.0, words=10, burst=1))
    assert 3.5 / 0.005 / 10 < found.clips < 8 / 0.005 / 10


def test_plans_that_cannot_be() -> None:
    with pytest.raises(OptionError, match="is not below the margin"):
        needed(Margin(absolute=0.005), Expected(rate=0.05, difference=0.005))
    with pytest.raises(OptionError, match="plan: power: 1 is not within"):
        Expected(rate=0.05, power=1.0)


def test_plans_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--rate=0.05", "--margin=10%", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["all"]
    assert found["clips"] == needed(Margin(relative=0.1), Expected(rate=0.05)).clips
    clips = [Clip(f"c{i}", f"/{i}.wav", "red green blue black", "English", 4.0) for i in range(40)]
    records = [Record(c.id, "red green blue", "English", 0.9, 4.0) for c in clips]
    write_report(tmp_path / "r.json", build_report(clips, records))
    assert main(["plan", f"--report={tmp_path / 'r.json'}", "--margin=0.05"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("English: ")
    assert "at a rate of 25.00%" in said
    assert main(["plan", "--rate=0.05", "--margin=none"]) == 2
