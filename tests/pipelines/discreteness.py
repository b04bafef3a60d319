"""What intervals of few errors are like, and what others would be: the kinds with 0.3 %.

    python -m tests.pipelines.discreteness tests/pipelines/results/discreteness.json

Where few speakers or recordings differ, chances come in steps (one sign of five: 1/32), and the
interval's are the next smaller. Tried, in both worlds of `simulation`: the rule of three until ten
recordings differ, and where none differs only; Hall's correction where it makes a bound nearer too.
`near` asks the same of versions that are almost equal (0.03 points): no chance of theirs is one of
an equal version's steps.

`differing` is in how many evaluations of equal versions so many clusters differ. Of m that differ,
all 2^m patterns of signs are as likely, so what any rule that goes by the signs would miss follows
from it: `rules` are all there are.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from pipelines.lib.intervals import REPORTED, Care
from tests.pipelines.simulation import (
    CLIPS_AT_ONCE,
    SPEAKERS,
    WORLDS,
    WORSE,
    Cell,
    Floats,
    Ints,
    calibrated,
    environment,
    evaluations,
)
from tests.pipelines.simulation_rows import Bools, Rows

WER = 0.003
NEAR = 0.0003
REPETITIONS = 1500
MISS = 0.025  # on each side
TRUTHS = {**WORSE, "near": NEAR}
LISTED = 40  # more clusters that differ are counted as so many
FREE = 12  # of so many and fewer that differ, a rule is free; of more it is the sign test
Rule = tuple[int, ...]


class Nearer(Rows):
    """As the library's, but for Hall's correction, which may make a bound nearer too."""

    def _widening(self, t: Floats, side: Ints, doubt: float) -> Floats:
        return self.halls(t, side, doubt)


TRIED: dict[str, tuple[Care, type[Rows]]] = {
    "as it is": (REPORTED, Rows),
    "rule of three until ten differ": (replace(REPORTED, sparse=10), Rows),
    "rule of three where none differs": (replace(REPORTED, sparse=1), Rows),
    "Hall's correction nearer too": (REPORTED, Nearer),
}


def covered(drawn: tuple[Ints, ...], truth: float) -> dict[str, Bools]:
    """Whether each interval holds the truth [repetitions]."""
    found = {}
    for name, (care, kind) in TRIED.items():
        rows = kind.of(*drawn)
        found[name] = ~(rows.below(truth, MISS, care) | rows.above(truth, MISS, care))
    return found


def rules(most: int = FREE, of: int = 1, before: int = -1) -> Iterator[Rule]:
    """Every rule by which signs leave zero out, of 1 to `most` clusters that differ.

    A rule says how many of m may differ the other way (-1 = zero is never left out). Where zero is
    left out, it is, too, with one more that differs in the same direction, and without one of the
    others: so from m to m + 1 that number stays or grows by one.
    """
    if of > most:
        yield ()
        return
    for other in (before, before + 1):
        if other <= (of - 1) // 2:
            for rest in rules(most, of + 1, other):
                yield (other, *rest)


def missed(rule: Rule) -> Floats:
    """Chance that zero, though true, is left out, by the number of clusters that differ."""
    chances = np.zeros(LISTED + 1)
    for number in range(1, LISTED + 1):
        other = rule[number - 1] if number <= FREE else _sign_test(number)
        chances[number] = _both_sides(other, number)
    return chances


@cache
def _both_sides(other: int, number: int) -> float:
    return float(2 * binom.cdf(other, number, 0.5))


@cache
def _sign_test(number: int) -> int:
    """How many of so many may differ the other way, by mid-p at MISS."""
    counts = np.arange(number)
    mid_p = binom.cdf(counts, number, 0.5) - 0.5 * binom.pmf(counts, number, 0.5)
    return int(np.count_nonzero(mid_p < MISS)) - 1


def measured(cell: Cell, world: str, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """A cell, and how often each interval held the truth."""
    truth = TRUTHS[cell.worse]
    rise, _ = calibrated(world, cell.speakers, cell.wer, truth)
    rng, left = np.random.default_rng(7), repetitions
    sums: dict[str, float] = {}
    differing = np.zeros(LISTED + 1, dtype=np.int64)
    while left:
        number = min(left, CLIPS_AT_ONCE // cell.clips)
        drawn = evaluations(rng, cell, rise, WORLDS[world], number)
        for name, inside in covered(drawn, truth).items():
            sums[name] = sums.get(name, 0) + int(inside.sum())
        signs = np.count_nonzero(Rows.of(*drawn).gaps, axis=1)
        differing += np.bincount(np.minimum(signs, LISTED), minlength=LISTED + 1)
        left -= number
    shares = {name: total / repetitions for name, total in sums.items()}
    found = {"world": world, **asdict(cell), **shares}
    return found | ({"differing": differing.tolist()} if cell.worse == "equal" else {})


def cells() -> list[Cell]:
    """Every kind with 0.3 % and 50 or 200 recordings."""
    kinds = itertools.product(SPEAKERS, (False, True), (50, 200), TRUTHS)
    return [Cell(WER, speakers, clips, heavy, worse) for speakers, heavy, clips, worse in kinds]


def main(path: Path) -> None:
    found = [measured(cell, world) for world in WORLDS for cell in cells()]
    written = {"environment": environment(), "repetitions": REPETITIONS, "cells": found}
    text = re.sub(
        r"\[[\d,\s]+\]", lambda row: re.sub(r"\s+", " ", row[0]), json.dumps(written, indent=1)
    )
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
