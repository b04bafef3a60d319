"""Two made-up versions on made-up recordings, to see how often intervals and the gate are right.

    python -m tests.pipelines.simulation tests/pipelines/gate_simulation.json

Recordings differ in length and difficulty, speakers in how hard they are and in how each version
likes them; half of what one version gets wrong the other does too. With heavy tails each version
loops on 1 % of the recordings, 20 to 80 words each, independently. The library's own functions
judge every repetition.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.lib.intervals import paired_sums, rate_interval
from pipelines.lib.limits import Margin
from pipelines.lib.margins import Excess

MARGIN = 0.005
SHARED = 0.5  # of the errors of the better version that the other makes too
LOOPING = 0.01
MAX_RATE = 0.95
REPETITIONS = 2000
WERS, SPEAKERS, SIZES = (0.003, 0.02, 0.08, 0.2), (0, 10, 40), (50, 200, 1000)
WORSE = {"equal": 0.0, "at the margin": MARGIN, "at twice the margin": 2 * MARGIN}

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One kind of evaluation."""

    wer: float
    speakers: int  # 0 = every recording is of its own
    clips: int
    heavy: bool
    worse: str  # key of WORSE


@dataclass(frozen=True)
class Found:
    """What came of it, as shares of the repetitions."""

    covered: float  # the interval holds the true difference
    accepted: float  # the error-rate question was answered "kept"
    rate_covered: float | None  # the stable version's interval holds its true rate


def cells() -> Iterator[Cell]:
    for wer, speakers, heavy, clips, worse in itertools.product(
        WERS, SPEAKERS, (False, True), SIZES, WORSE
    ):
        yield Cell(wer, speakers, clips, heavy, worse)


def simulate(cell: Cell, repetitions: int, seed: int = 1) -> Found:
    """Repeat one evaluation."""
    truth = WORSE[cell.worse]
    rise, rate = _calibrated(cell.speakers, cell.wer, truth)
    rng = np.random.default_rng(seed)
    covered = accepted = rate_covered = 0
    for _ in range(repetitions):
        first, second, units, clusters = _evaluation(rng, cell, rise)
        paired = paired_sums(first, second, units, clusters)
        interval = paired.estimate().interval()
        assert interval is not None
        covered += interval.low <= truth <= interval.high
        entry = {"sums": paired.sums, "num_changed": paired.num_changed, "size": paired.size}
        accepted += Excess({**entry, "num_clips": cell.clips}, Margin(MARGIN)).kept()
        if not cell.heavy and cell.worse == "equal":
            alone = rate_interval(first, units, clusters)
            assert alone is not None
            rate_covered += alone.low <= rate <= alone.high
    told = not cell.heavy and cell.worse == "equal"
    return Found(
        covered / repetitions,
        accepted / repetitions,
        rate_covered / repetitions if told else None,
    )


def _rates(
    rng: np.random.Generator, speakers: int, clips: int, wer: float, rise: float
) -> tuple[Ints, Floats, Floats]:
    """Each recording's cluster, and both versions' chance of an error in a word of it."""
    clusters = np.arange(clips) % (speakers or clips)
    hard = rng.gamma(4, 1 / 4, speakers) if speakers else np.ones(clips)
    liked = rng.gamma(16, 1 / 16, speakers) if speakers else np.ones(clips)
    difficulty = hard[clusters] * rng.gamma(1, 1, clips)
    first = np.minimum(MAX_RATE, wer * difficulty)
    second = np.minimum(MAX_RATE, (wer + rise) * difficulty * liked[clusters])
    return clusters, first, second


def _evaluation(
    rng: np.random.Generator, cell: Cell, rise: float
) -> tuple[list[int], list[int], list[int], list[int]]:
    units = np.maximum(1, rng.gamma(4, 3, cell.clips).round()).astype(int)
    clusters, first, second = _rates(rng, cell.speakers, cell.clips, cell.wer, rise)
    both = np.minimum(first, second) * SHARED
    shared = rng.binomial(units, both)
    errors = [
        shared + rng.binomial(units - shared, (p - both) / (1 - both)) for p in (first, second)
    ]
    if cell.heavy:
        for each in errors:
            looping = rng.random(cell.clips) < LOOPING
            each[looping] += rng.integers(20, 80, int(looping.sum()))
    return errors[0].tolist(), errors[1].tolist(), units.tolist(), clusters.tolist()


@cache
def _calibrated(speakers: int, wer: float, truth: float) -> tuple[float, float]:
    """The rise at which the true difference is `truth`, and the first version's true rate."""

    def difference(rise: float) -> tuple[float, float]:
        rng = np.random.default_rng(99)
        size = 1_000_000
        _, first, second = _rates(rng, size // 4 if speakers else 0, size, wer, rise)
        return float(second.mean() - first.mean()), float(first.mean())

    low, high = 0.0, 4 * MARGIN
    at_low, at_high = difference(low)[0], difference(high)[0]
    rise = low + (truth - at_low) * (high - low) / (at_high - at_low)  # almost linear
    return rise, difference(rise)[1]


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that are quoted."""
    coverage = [r["covered"] for r in results]
    rate_coverage = [r["rate_covered"] for r in results if r["rate_covered"] is not None]
    light = [r["covered"] for r in results if not r["heavy"] and r["clips"] >= 200]

    def accepted(worse: str) -> list[float]:
        return [r["accepted"] for r in results if r["worse"] == worse]

    return {
        "coverage": {
            "least": min(coverage),
            "most": max(coverage),
            "mean": float(np.mean(coverage)),
        },
        "coverage_light_from_200_clips": {"least": min(light), "most": max(light)},
        "rate_coverage": {"least": min(rate_coverage), "most": max(rate_coverage)},
        "accepted_at_the_margin": {"most": max(accepted("at the margin"))},
        "accepted_at_twice_the_margin": {"most": max(accepted("at twice the margin"))},
        "shares_within_93_to_97": float(np.mean([0.93 <= c <= 0.97 for c in coverage])),
    }


def main(path: Path, repetitions: int = REPETITIONS) -> None:
    results = [{**asdict(cell), **asdict(simulate(cell, repetitions))} for cell in cells()]
    written = {
        "margin": MARGIN,
        "repetitions": repetitions,
        "level": 0.95,
        "summary": summarize(results),
        "cells": results,
    }
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:]))
