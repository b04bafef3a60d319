"""Made-up versions on made-up recordings, to see how often intervals and the gate are right.

    python -m tests.pipelines.simulation tests/pipelines/gate_simulation.json

There are two worlds. The intervals were chosen in the first: recordings differ in length and
difficulty, speakers in how hard they are and in how each version likes them, half of what one
version gets wrong the other does too, and with heavy tails each version loops on 1 % of the
recordings, 20 to 80 words each. The second was written afterwards, to try them: two recordings of
three are easy and the rest hard, lengths have a long tail, speakers have very different numbers of
recordings, errors come in runs, a fifth of them is shared, and loops are of any length.

Repetitions are judged many at once by `simulation_rows`, which the tests hold equal to the library.
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

from pipelines.lib.intervals import LEVEL, REPORTED, rate_interval
from pipelines.lib.margins import MISS_AT_MARGIN, MISS_AT_TWICE
from tests.pipelines.simulation_rows import Rows

MARGIN = 0.005
LOOPING = 0.01
MAX_RATE = 0.95
REPETITIONS = 600
AGAIN = 10  # times as many, anew, where wrong promotions look more frequent than promised
LONGER = 5  # times as many, anew, where coverage looks to be outside WITHIN
PROMISED = {"at the margin": 0.03, "at twice the margin": 0.005}
WERS, SPEAKERS, SIZES = (0.003, 0.02, 0.08, 0.2), (0, 10, 40), (50, 200, 1000)
WORSE = {"equal": 0.0, "at the margin": MARGIN, "at twice the margin": 2 * MARGIN}
WITHIN = (0.93, 0.97)
CLIPS_AT_ONCE = 100_000
SIGNS = 6  # of so many clusters that differ, all in one direction, have a chance below 2.5 %
CALIBRATIONS = 60_000

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
    deciding: float  # recordings that decide it, on average: (Σ errors²)² / Σ errors⁴
    few: float  # repetitions in which fewer than SIGNS clusters differ between the versions


class World(Protocol):
    """How recordings and errors come about; arrays are [repetitions, clips]."""

    shared: float  # of the errors of the better version that the other makes too

    def recordings(self, rng: Rng, shape: tuple[int, int]) -> tuple[Ints, Floats]:
        """Words of each recording, and how hard it is (1 on average)."""
        ...

    def speakers(self, rng: Rng, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        """How hard each speaker is, and how much more the second version errs on them."""
        ...

    def owners(self, rng: Rng, speakers: int, clips: int) -> Ints:
        """Whose recording each is."""
        ...

    def loops(self, rng: Rng, number: int) -> Ints:
        """Words too many in transcripts that loop."""
        ...


class First:
    """Where the intervals were chosen."""

    shared = 0.5

    def recordings(self, rng: Rng, shape: tuple[int, int]) -> tuple[Ints, Floats]:
        return np.maximum(1, rng.gamma(4, 3, shape).round()).astype(int), rng.gamma(1, 1, shape)

    def speakers(self, rng: Rng, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        return rng.gamma(4, 1 / 4, shape), rng.gamma(16, 1 / 16, shape)

    def owners(self, rng: Rng, speakers: int, clips: int) -> Ints:
        return np.arange(clips) % speakers

    def loops(self, rng: Rng, number: int) -> Ints:
        return rng.integers(20, 80, number)


class Second:
    """Where they are tried."""

    shared = 0.2

    def recordings(self, rng: Rng, shape: tuple[int, int]) -> tuple[Ints, Floats]:
        words = np.maximum(1, np.exp(rng.normal(2.2, 0.7, shape)).round()).astype(int)
        hard = np.where(rng.random(shape) < 1 / 3, 2.0, 0.5)
        return words, hard * rng.gamma(2, 1 / 2, shape)  # errors come together

    def speakers(self, rng: Rng, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        return (
            np.exp(rng.normal(0, 0.5, shape) - 0.125),
            np.maximum(0, 1 + rng.normal(0, 0.2, shape)),
        )

    def owners(self, rng: Rng, speakers: int, clips: int) -> Ints:
        weights = 1 / np.arange(1, speakers + 1) ** 0.5
        drawn = rng.choice(speakers, clips - speakers, p=weights / weights.sum())
        return np.concatenate([np.arange(speakers), drawn])

    def loops(self, rng: Rng, number: int) -> Ints:
        return 10 + rng.geometric(1 / 60, number)


WORLDS: dict[str, World] = {"chosen in": First(), "tried in": Second()}


def cells() -> Iterator[Cell]:
    for wer, speakers, heavy, clips, worse in itertools.product(
        WERS, SPEAKERS, (False, True), SIZES, WORSE
    ):
        yield Cell(wer, speakers, clips, heavy, worse)


def simulate(cell: Cell, repetitions: int, seed: int = 1, world: str = "chosen in") -> Found:
    """Repeat one evaluation."""
    truth = WORSE[cell.worse]
    rise, rate = calibrated(world, cell.speakers, cell.wer, truth)
    rng = np.random.default_rng(seed)
    totals, left = np.zeros(5), repetitions
    while left:
        number = min(left, max(1, CLIPS_AT_ONCE // cell.clips))
        totals += _some(evaluations(rng, cell, rise, WORLDS[world], number), cell, truth, rate)
        left -= number
    covered, accepted, rate_covered, deciding, few = (totals / repetitions).tolist()
    told = not cell.heavy and cell.worse == "equal"
    return Found(covered, accepted, rate_covered if told else None, round(deciding, 1), few)


def _some(drawn: tuple[Ints, ...], cell: Cell, truth: float, rate: float) -> Floats:
    first, second, units, owners = drawn
    rows = Rows.of(first, second, units, owners)
    miss = (1 - LEVEL) / 2
    covered = ~(rows.below(truth, miss, REPORTED) | rows.above(truth, miss, REPORTED))
    accepted = rows.below(MARGIN, MISS_AT_MARGIN) & rows.below(2 * MARGIN, MISS_AT_TWICE)
    both = (first + second).astype(float)
    deciding = np.sum(both**2, axis=1) ** 2 / np.maximum(1, np.sum(both**4, axis=1))
    held = 0
    if not cell.heavy and cell.worse == "equal":
        for errors, words in zip(first, units, strict=True):
            alone = rate_interval(errors, words, owners.tolist())
            held += alone is not None and alone.low <= rate <= alone.high
    few = np.count_nonzero(rows.gaps, axis=1) < SIGNS
    return np.array([covered.sum(), accepted.sum(), held, deciding.sum(), few.sum()])


def evaluations(
    rng: Rng, cell: Cell, rise: float, world: World, number: int
) -> tuple[Ints, Ints, Ints, Ints]:
    """Errors of both versions and words [number, clips], and the recordings' clusters [clips]."""
    shape = (number, cell.clips)
    units, hard = world.recordings(rng, shape)
    owners, liked = np.arange(cell.clips), np.ones(shape)
    if cell.speakers:
        owners = world.owners(rng, cell.speakers, cell.clips)
        harder, preferred = world.speakers(rng, (number, cell.speakers))
        hard, liked = hard * harder[:, owners], preferred[:, owners]
    chances = [
        np.minimum(MAX_RATE, cell.wer * hard),
        np.minimum(MAX_RATE, (cell.wer + rise) * hard * liked),
    ]
    both = np.minimum(*chances) * world.shared
    common = rng.binomial(units, both)
    errors = [common + rng.binomial(units - common, (p - both) / (1 - both)) for p in chances]
    for each in errors if cell.heavy else ():
        looping = rng.random(shape) < LOOPING
        each[looping] += world.loops(rng, int(looping.sum()))
    return errors[0], errors[1], units, owners


@cache
def calibrated(world: str, speakers: int, wer: float, truth: float) -> tuple[float, float]:
    """The rise at which the true difference is `truth`, and the first version's true rate."""

    def rates(rise: float) -> tuple[float, float]:
        # Few recordings of each speaker: a speaker's effect must be drawn often, not once.
        cell = Cell(wer, 8 if speakers else 0, 16, False, "equal")
        drawn = evaluations(np.random.default_rng(99), cell, rise, WORLDS[world], CALIBRATIONS)
        first, second, words = (float(each.sum()) for each in drawn[:3])
        return (second - first) / words, first / words

    low, high = 0.0, 4 * MARGIN
    at_low, at_high = rates(low)[0], rates(high)[0]
    rise = low + (truth - at_low) * (high - low) / (at_high - at_low)  # almost linear
    return rise, rates(rise)[1]


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that are quoted."""
    coverage = [r["covered"] for r in results]
    above = [r for r in results if r["covered"] > WITHIN[1]]
    rate_coverage = [r["rate_covered"] for r in results if r["rate_covered"] is not None]

    def accepted(worse: str) -> dict[str, float]:
        found = [r["accepted"] for r in results if r["worse"] == worse]
        return {"most": max(found), "mean": float(np.mean(found))}

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
        "above_97": {
            "cells": len(above),
            "deciding_most": max((r["deciding"] for r in above), default=0.0),
            "few_least": min((r["few"] for r in above), default=1.0),
        },
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


def measured(cell: Cell, repetitions: int, seed: int, world: str) -> dict[str, Any]:
    """A cell and what came of it; one in doubt is simulated anew, longer.

    Of eleven kinds that are covered in 96 %, one looks to be above 97 % in 600 repetitions.
    """
    found = simulate(cell, repetitions, seed, world)
    doubts = {
        AGAIN: found.accepted > PROMISED.get(cell.worse, 1.0),
        LONGER: not WITHIN[0] <= found.covered <= WITHIN[1],
    }
    if any(doubts.values()):
        times = max(times for times, doubtful in doubts.items() if doubtful)
        repetitions *= times
        found = simulate(cell, repetitions, seed + times, world)
    return {**asdict(cell), "repetitions": repetitions, **asdict(found)}


def main(path: Path, repetitions: int = REPETITIONS) -> None:
    written: dict[str, Any] = {
        "environment": environment(),
        "margin": MARGIN,
        "repetitions": repetitions,
        "level": LEVEL,
        "worlds": {},
    }
    for seed, world in enumerate(WORLDS, start=101):
        results = [measured(cell, repetitions, seed, world) for cell in cells()]
        summary = json.loads(json.dumps(summarize(results)))
        written["worlds"][world] = {"seed": seed, "summary": summary, "cells": results}
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:]))
