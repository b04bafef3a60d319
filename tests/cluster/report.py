"""What ran where: the figures of a run on a cluster, as a table in README.md.

python -m tests.cluster.report   # writes the table from results/*.json
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from tests.manifests.combinations import replaced

FOLDER = Path(__file__).parent
ABOUT = ("versions", "machine", "commit", "load", "ended")  # beside the figures
BEGIN, END = "<!-- results:begin -->\n", "<!-- results:end -->"


def load(folder: Path = FOLDER / "results") -> dict[str, dict[str, Any]]:
    """Figures of each test by its name; empty where none ran."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # by version, or by an identity of weights, which is a digest
        return ", ".join(f"{key[:8]} {number}" for key, number in sorted(value.items()))
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each test with its figures by name; above them what they ran on, by letter."""
    if not results:
        return "No run on a cluster is recorded here.\n"
    places = {name: _place(each) for name, each in results.items()}
    letters = dict(zip(sorted({*places.values()}), string.ascii_uppercase, strict=False))
    rows = [f"{letter}: {place}\n" for place, letter in letters.items()]
    rows += ["| test | ended | figures | on | load |", "| --- | --- | --- | --- | --- |"]
    for name, each in results.items():
        figures = "; ".join(
            f"{key} {_shown(value)}" for key, value in sorted(each.items()) if key not in ABOUT
        )
        load = ", ".join(map(str, each.get("load", ["not kept"])))
        where = f"{letters[places[name]]}, {each['commit']}"
        rows.append(f"| {name} | {each['ended']} | {figures} | {where} | {load} |")
    return "\n".join(rows) + "\n"


def _place(each: dict[str, Any]) -> str:
    versions = ", ".join(f"{key} {version}" for key, version in sorted(each["versions"].items()))
    return f"{each['machine']}; {versions}."


if __name__ == "__main__":
    readme = FOLDER / "README.md"
    readme.write_text(replaced(readme.read_text(), table(load()), BEGIN, END))
