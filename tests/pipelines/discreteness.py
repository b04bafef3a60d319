"""What intervals of few errors are like, and what others would be: the kinds with 0.3 %.

    python -m tests.pipelines.discreteness tests/pipelines/results/discreteness.json

Where few speakers or recordings differ, chances come in steps (one sign of five: 1/32), and the
interval's are the next smaller. Tried, in both worlds of `simulation`: the rule of three until ten
recordings differ, and where none differs only. `sign test` is the least coverage that any exact
test of the clusters' signs can have where the versions are equal: of m that differ, all 2^m
patterns are as likely. `near` asks the same of versions that are almost equal (0.03 points): no
chance of theirs is one of an equal version's steps.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.lib.intervals import REPORTED
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
TRIED = {
    "as it is": REPORTED,
    "rule of three until ten differ": replace(REPORTED, sparse=10),
    "rule of three where none differs": replace(REPORTED, sparse=1),
}


def covered(rows: Rows, truth: float) -> dict[str, Bools]:
    """Whether each interval holds the truth [repetitions]."""
    return {
        name: ~(rows.below(truth, MISS, care) | rows.above(truth, MISS, care))
        for name, care in TRIED.items()
    }


def sign_test(differing: Ints) -> Floats:
    """The most that a test of so many signs may miss, both sides [repetitions]."""
    patterns = 2.0 ** np.minimum(differing, 50)
    return 2 * np.floor(MISS * patterns) / patterns


def measured(cell: Cell, world: str, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """A cell, and how often each interval held the truth."""
    truth = TRUTHS[cell.worse]
    rise, _ = calibrated(world, cell.speakers, cell.wer, truth)
    rng, left = np.random.default_rng(7), repetitions
    sums: dict[str, float] = {}
    missed = 0.0
    while left:
        number = min(left, CLIPS_AT_ONCE // cell.clips)
        rows = Rows.of(*evaluations(rng, cell, rise, WORLDS[world], number))
        for name, inside in covered(rows, truth).items():
            sums[name] = sums.get(name, 0) + int(inside.sum())
        missed += float(sign_test(np.count_nonzero(rows.gaps, axis=1)).sum())
        left -= number
    shares = {name: total / repetitions for name, total in sums.items()}
    return {"world": world, **asdict(cell), **shares, "sign test": 1 - missed / repetitions}


def cells() -> list[Cell]:
    """Every kind with 0.3 % and 50 or 200 recordings."""
    kinds = itertools.product(SPEAKERS, (False, True), (50, 200), TRUTHS)
    return [Cell(WER, speakers, clips, heavy, worse) for speakers, heavy, clips, worse in kinds]


def main(path: Path) -> None:
    found = [measured(cell, world) for world in WORLDS for cell in cells()]
    written = {"environment": environment(), "repetitions": REPETITIONS, "cells": found}
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
