"""Whether known remedies for few errors bring intervals nearer to 95 %: the kinds with 0.3 %.

    python -m tests.pipelines.discreteness tests/pipelines/results/discreteness.json

Where few speakers or recordings differ, chances come in steps (one sign of five: 1/32), and the
interval's are the next smaller. Tried, in both worlds of `simulation`: to count half of the chance
of what was seen (mid-p), of the signs alone, and of the rule of three as well; and to leave the
rule of three out. `sign test` is the least coverage that any test of the clusters' signs can have
where the versions are equal: of m that differ, all 2^m patterns are as likely.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from pipelines.lib.intervals import REPORTED
from tests.pipelines import simulation_rows
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
REPETITIONS = 1500
MISS = 0.025  # on each side
MID_OF_THREE = math.log(0.5 / MISS) / math.log(1 / MISS)  # of the bound where nothing was seen
WITHOUT = replace(REPORTED, sparse=1)
exact = simulation_rows.tails


def mid_p(terms: Floats) -> Floats:
    """As `tails`, with half of the chance where all terms have one sign."""
    total, most = terms.sum(axis=1), np.abs(terms).sum(axis=1)
    number = np.count_nonzero(terms, axis=1).astype(float)
    return np.where((total > 0) & (total >= most * (1 - 1e-9)), 2.0 ** -(number + 1), exact(terms))


def covered(rows: Rows, truth: float) -> dict[str, Bools]:
    """Whether each remedy's interval holds the truth [repetitions]."""
    narrower = replace(rows, step=rows.step * MID_OF_THREE)
    found = {}
    for name, tails, used, care in (
        ("as it is", exact, rows, REPORTED),
        ("mid-p of the signs", mid_p, rows, REPORTED),
        ("mid-p of signs and rule of three", mid_p, narrower, REPORTED),
        ("rule of three where none differs", exact, rows, WITHOUT),
    ):
        with patch.object(simulation_rows, "tails", tails):
            outside = used.below(truth, MISS, care) | used.above(truth, MISS, care)
        found[name] = ~outside
    return found


def sign_test(differing: Ints) -> Floats:
    """The most that a test of so many signs may miss, both sides [repetitions]."""
    patterns = 2.0 ** np.minimum(differing, 50)
    return 2 * np.floor(MISS * patterns) / patterns


def measured(cell: Cell, world: str, repetitions: int = REPETITIONS) -> dict[str, Any]:
    truth = WORSE[cell.worse]
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
    kinds = itertools.product(SPEAKERS, (False, True), (50, 200), WORSE)
    return [Cell(WER, speakers, clips, heavy, worse) for speakers, heavy, clips, worse in kinds]


def main(path: Path) -> None:
    found = [measured(cell, world) for world in WORLDS for cell in cells()]
    written = {"environment": environment(), "repetitions": REPETITIONS, "cells": found}
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
