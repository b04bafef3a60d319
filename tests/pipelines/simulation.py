"""Made-up versions on made-up recordings, to see how often intervals and the gate are right.

    python -m tests.pipelines.simulation tests/pipelines/gate_simulation.json

There are two worlds. The intervals were chosen in the first: recordings differ in length and
difficulty, speakers in how hard they are and in how each version likes them, half of what one
version gets wrong the other does too, and with heavy tails each version loops on 1 % of the
recordings, 20 to 80 words each. The second was written afterwards, to try them: two recordings of
three are easy and the rest hard, lengths have a long tail, speakers have very different numbers of
recordings, errors come in runs, a fifth of them is shared, and loops are of any length.

The library's own functions judge every repetition.
"""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.lib.intervals import LEVEL, REPORTED, paired_sums, rate_interval
from pipelines.lib.limits import Margin
from pipelines.lib.margins import Excess

MARGIN = 0.005
LOOPING = 0.01
MAX_RATE = 0.95
REPETITIONS = 1000
WERS, SPEAKERS, SIZES = (0.003, 0.02, 0.08, 0.2), (0, 10, 40), (50, 200, 1000)
WORSE = {"equal": 0.0, "at the margin": MARGIN, "at twice the margin": 2 * MARGIN}
WITHIN = (0.93, 0.97)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rng = np.random.Generator


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
    erring: float  # recordings that decide it, on average: (Σ errors²)² / Σ errors⁴


class World(Protocol):
    """How recordings and errors come about."""

    def draw(
        self, rng: Rng, speakers: int, clips: int, wer: float, rise: float
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """Errors of both versions, words and speaker of each recording; without loops."""
        ...

    def loops(self, rng: Rng, number: int) -> Ints:
        """Words too many in transcripts that loop."""
        ...


class First:
    """Where the intervals were chosen."""

    shared = 0.5

    def draw(
        self, rng: Rng, speakers: int, clips: int, wer: float, rise: float
    ) -> tuple[Ints, Ints, Ints, Ints]:
        units = np.maximum(1, rng.gamma(4, 3, clips).round()).astype(int)
        clusters = np.arange(clips) % (speakers or clips)
        hard = rng.gamma(4, 1 / 4, speakers) if speakers else np.ones(clips)
        liked = rng.gamma(16, 1 / 16, speakers) if speakers else np.ones(clips)
        difficulty = hard[clusters] * rng.gamma(1, 1, clips)
        first = np.minimum(MAX_RATE, wer * difficulty)
        second = np.minimum(MAX_RATE, (wer + rise) * difficulty * liked[clusters])
        errors = _errors(rng, units, first, second, self.shared)
        return *errors, units, clusters

    def loops(self, rng: Rng, number: int) -> Ints:
        return rng.integers(20, 80, number)


class Second:
    """Where they are tried."""

    shared = 0.2
    hard_share = 1 / 3

    def draw(
        self, rng: Rng, speakers: int, clips: int, wer: float, rise: float
    ) -> tuple[Ints, Ints, Ints, Ints]:
        units = np.maximum(1, np.exp(rng.normal(2.2, 0.7, clips)).round()).astype(int)
        if speakers:
            weights = 1 / np.arange(1, speakers + 1) ** 0.5
            drawn = rng.choice(speakers, clips - speakers, p=weights / weights.sum())
            clusters = np.concatenate([np.arange(speakers), drawn])
            hard = np.exp(rng.normal(0, 0.5, speakers) - 0.125)
            liked = np.maximum(0, 1 + rng.normal(0, 0.2, speakers))
        else:
            clusters, hard, liked = np.arange(clips), np.ones(clips), np.ones(clips)
        is_hard = rng.random(clips) < self.hard_share
        difficulty = np.where(is_hard, 2.0, 0.5) * hard[clusters]
        runs = rng.gamma(2, 1 / 2, clips)  # errors come together
        first = np.minimum(MAX_RATE, wer * difficulty * runs)
        second = np.minimum(MAX_RATE, (wer + rise) * difficulty * runs * liked[clusters])
        errors = _errors(rng, units, first, second, self.shared)
        return *errors, units, clusters

    def loops(self, rng: Rng, number: int) -> Ints:
        return 10 + rng.geometric(1 / 60, number)


WORLDS: dict[str, World] = {"chosen in": First(), "tried in": Second()}


def _errors(rng: Rng, units: Ints, first: Floats, second: Floats, shared: float) -> list[Ints]:
    both = np.minimum(first, second) * shared
    common = rng.binomial(units, both)
    return [common + rng.binomial(units - common, (p - both) / (1 - both)) for p in (first, second)]


def cells() -> Iterator[Cell]:
    for wer, speakers, heavy, clips, worse in itertools.product(
        WERS, SPEAKERS, (False, True), SIZES, WORSE
    ):
        yield Cell(wer, speakers, clips, heavy, worse)


def simulate(cell: Cell, repetitions: int, seed: int = 1, world: str = "chosen in") -> Found:
    """Repeat one evaluation."""
    truth = WORSE[cell.worse]
    rise, rate = _calibrated(world, cell.speakers, cell.wer, truth)
    rng = np.random.default_rng(seed)
    covered = accepted = rate_covered = erring = 0.0
    told = not cell.heavy and cell.worse == "equal"
    for _ in range(repetitions):
        first, second, units, clusters = _evaluation(rng, cell, rise, WORLDS[world])
        paired = paired_sums(first, second, units, clusters)
        covered += holds(paired.estimate(), truth)
        entry = {"sums": paired.sums, "num_changed": paired.num_changed, "size": paired.size}
        accepted += Excess({**entry, "num_clips": cell.clips}, Margin(MARGIN)).kept()
        both = (first + second).astype(float)
        erring += float(np.sum(both**2) ** 2 / max(1.0, float(np.sum(both**4))))
        if told:
            alone = rate_interval(first, units, clusters)
            assert alone is not None
            rate_covered += float(alone.low <= rate <= alone.high)
    return Found(
        covered / repetitions,
        accepted / repetitions,
        rate_covered / repetitions if told else None,
        round(erring / repetitions, 1),
    )


def holds(estimate: Any, truth: float) -> bool:
    """Whether the 95 % interval holds the truth, without computing its ends."""
    miss = (1 - LEVEL) / 2
    return not (estimate.below(truth, miss, REPORTED) or estimate.above(truth, miss, REPORTED))


def _evaluation(
    rng: Rng, cell: Cell, rise: float, world: World
) -> tuple[Ints, Ints, Ints, list[int]]:
    first, second, units, clusters = world.draw(rng, cell.speakers, cell.clips, cell.wer, rise)
    if cell.heavy:
        for each in (first, second):
            looping = rng.random(cell.clips) < LOOPING
            each[looping] += world.loops(rng, int(looping.sum()))
    return first, second, units, clusters.tolist()


@cache
def _calibrated(world: str, speakers: int, wer: float, truth: float) -> tuple[float, float]:
    """The rise at which the true difference is `truth`, and the first version's true rate."""

    def rates(rise: float) -> tuple[float, float]:
        rng = np.random.default_rng(99)
        sums = np.zeros(3)
        # Many small evaluations: a speaker's effect must be drawn often, not once.
        for _ in range(CALIBRATIONS if speakers else 1):
            size = CLIPS_A_CALIBRATION if speakers else CALIBRATIONS * CLIPS_A_CALIBRATION
            drawn = WORLDS[world].draw(rng, speakers * 50 if speakers else 0, size, wer, rise)
            sums += [float(row.sum()) for row in drawn[:3]]
        return (sums[1] - sums[0]) / sums[2], sums[0] / sums[2]

    low, high = 0.0, 4 * MARGIN
    at_low, at_high = rates(low)[0], rates(high)[0]
    rise = low + (truth - at_low) * (high - low) / (at_high - at_low)  # almost linear
    return rise, rates(rise)[1]


CALIBRATIONS, CLIPS_A_CALIBRATION = 60, 40_000


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that are quoted."""
    coverage = [r["covered"] for r in results]
    rate_coverage = [r["rate_covered"] for r in results if r["rate_covered"] is not None]

    def accepted(worse: str) -> float:
        return max(r["accepted"] for r in results if r["worse"] == worse)

    def within(found: list[float]) -> float:
        return float(np.mean([WITHIN[0] <= c <= WITHIN[1] for c in found]))

    return {
        "coverage": {
            "least": min(coverage),
            "most": max(coverage),
            "mean": float(np.mean(coverage)),
        },
        "cells": len(results),
        "within_93_to_97": within(coverage),
        "below_93": float(np.mean([c < WITHIN[0] for c in coverage])),
        "above_97": sorted({(r["wer"], r["clips"]) for r in results if r["covered"] > WITHIN[1]}),
        "rate_coverage": {"least": min(rate_coverage), "most": max(rate_coverage)},
        "accepted_at_the_margin": accepted("at the margin"),
        "accepted_at_twice_the_margin": accepted("at twice the margin"),
    }


def environment() -> dict[str, str]:
    """What a reader must know of the run."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {"commit": commit, "numpy": np.__version__, "python": platform.python_version()}


def main(path: Path, repetitions: int = REPETITIONS) -> None:
    written: dict[str, Any] = {
        "environment": environment(),
        "margin": MARGIN,
        "repetitions": repetitions,
        "level": LEVEL,
        "worlds": {},
    }
    for seed, world in enumerate(WORLDS, start=101):
        results = [
            {**asdict(cell), **asdict(simulate(cell, repetitions, seed, world))} for cell in cells()
        ]
        summary = json.loads(json.dumps(summarize(results)))
        written["worlds"][world] = {"seed": seed, "summary": summary, "cells": results}
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:]))
