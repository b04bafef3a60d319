"""The kinds of evaluation whose intervals are wider than promised, for pipelines/README.md.

python -m tests.pipelines.coverage_table
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.pipelines.simulation import WITHIN, WORSE

FIGURES = Path(__file__).with_name("gate_simulation.json")
HEAD = (
    "| error rate, recordings, speakers | equal | worse by the margin | by twice the margin |\n"
    "| --- | --- | --- | --- |\n"
)


def table(recorded: dict[str, Any]) -> str:
    """True differences inside the interval, in both worlds; kinds with at least one beyond 97 %."""
    cells: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for world in recorded["worlds"].values():
        for cell in world["cells"]:
            kind = tuple(cell[key] for key in ("wer", "clips", "speakers", "heavy"))
            cells.setdefault(kind, {}).setdefault(cell["worse"], []).append(cell["covered"])
    rows = [
        f"| {_name(*kind)} | {' | '.join(_both(found[worse]) for worse in WORSE)} |\n"
        for kind, found in cells.items()
        if any(covered > WITHIN[1] for both in found.values() for covered in both)
    ]
    return HEAD + "".join(rows)


def _name(wer: float, clips: int, speakers: int, heavy: bool) -> str:
    who = f"{speakers} speakers" if speakers else "independent"
    return f"{wer * 100:g} %, {clips}, {who}" + (", with loops" if heavy else "")


def _both(covered: list[float]) -> str:
    return " and ".join(f"{share * 100:.1f}" for share in covered) + " %"


if __name__ == "__main__":
    sys.stdout.write(table(json.loads(FIGURES.read_text(encoding="utf-8"))))
