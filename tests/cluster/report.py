"""What ran where: the figures of a run on a cluster, as a table in README.md.

python -m tests.cluster.report   # writes the table from results/*.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.manifests.combinations import replaced

FOLDER = Path(__file__).parent
ABOUT = ("versions", "machine", "commit", "ended")  # beside the figures
BEGIN, END = "<!-- results:begin -->\n", "<!-- results:end -->"


def load(folder: Path = FOLDER / "results") -> dict[str, dict[str, Any]]:
    """Figures of each test by its name; empty where none ran."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # by version, or by an identity of weights, which is a digest
        return ", ".join(f"{key[:8]} {number}" for key, number in sorted(value.items()))
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each test: its versions, and its figures by name."""
    if not results:
        return "No run on a cluster is recorded here.\n"
    rows = ["| test | ended | figures | on |", "| --- | --- | --- | --- |"]
    for name, each in results.items():
        versions = ", ".join(
            f"{key} {version}" for key, version in sorted(each["versions"].items())
        )
        where = f"{versions}; {each['machine']}; {each['commit']}"
        figures = "; ".join(
            f"{key} {_shown(value)}" for key, value in sorted(each.items()) if key not in ABOUT
        )
        rows.append(f"| {name} | {each['ended']} | {figures} | {where} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    readme = FOLDER / "README.md"
    readme.write_text(replaced(readme.read_text(), table(load()), BEGIN, END))
