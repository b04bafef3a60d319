"""Writes the result tables of the model cards from tests/bench/results/accuracy.json.

python -m tests.tiny.card
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "bench" / "results" / "accuracy.json"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
COLUMNS = {
    "clips": "clips",
    "English error %": "WER en %",
    "Chinese error %": "CER zh %",
    "English insertions %": "insertions en %",
    "Chinese insertions %": "insertions zh %",
    "language right %": "language %",
    "empty %": "empty %",
    "hot words %": "hot words %",
    "confidence AUROC": "AUROC of confidence",
}


def table(checkpoint: str, results: dict[str, Any]) -> str:
    """The Markdown table of one checkpoint, a row for each set."""
    lines = [f"| set | {' | '.join(COLUMNS.values())} |", "| --- |" + " ---: |" * len(COLUMNS)]
    for row in results["rows"]:
        if row["checkpoint"] == checkpoint:
            cells = [str(row.get(key, "")) for key in COLUMNS]
            lines.append(f"| {row['set']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fill(text: str, content: str) -> str:
    """`text` with `content` between the markers."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{content}\n{END}{tail}"


def main() -> None:
    results = json.loads(RESULTS.read_text())
    for checkpoint in ("tiny", "tiny-early"):
        path = ROOT / "predictor" / "checkpoints" / checkpoint / "README.md"
        path.write_text(fill(path.read_text("utf-8"), table(checkpoint, results)), "utf-8")


if __name__ == "__main__":
    main()
