"""Errors of word times on the evaluation set, as a server gives them.

`python -m tests.align.scores`: |error| of starts and ends in ms, by language and kind of clip,
into a JSON file and the model card.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from predictor.align.model import Aligner
from predictor.align.passes import Marked, aligned
from predictor.align.words import split_words

ROOT = Path(__file__).parents[2]
TINY = ROOT / "predictor" / "checkpoints" / "tiny-aligner"
DATA = ROOT / "tests" / "data" / "eval"
RESULTS = Path(__file__).parent / "results" / "word_times.json"
CARD = TINY / "README.md"
BEGIN, END = "<!-- results:begin -->\n", "<!-- results:end -->"
LONGEST_S = 31.0  # longer recordings are cut into pieces first


def errors(
    aligner: Aligner, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, list[tuple[float, float]]]:
    """|error| of starts and ends of every word, seconds, by language and kind of clip."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in (DATA / "words.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if not wanted(row["audio"]):
            continue
        samples, _ = soundfile.read(DATA / row["audio"], dtype="float32")
        spoken = [word for word in row["words"] if split_words(word["word"], row["language"])]
        joiner = " " if row["language"] == "English" else ""
        words = split_words(joiner.join(word["word"] for word in spoken), row["language"])
        if len(samples) > LONGEST_S * 16_000 or len(words) != len(spoken):
            continue
        [times] = aligned(aligner, [Marked(samples, tuple(words))])
        true = np.array([(word["start_s"], word["end_s"]) for word in spoken])
        kind = "long" if "long" in row["audio"] else "short"
        rows = np.abs(times - true).tolist()
        found.setdefault(f"{row['language']} {kind}", []).extend(map(tuple, rows))
    return found


def summary(found: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Median and 95th percentile in ms, also of each language as a whole."""
    whole: dict[str, list[tuple[float, float]]] = {}
    for name, rows in found.items():
        whole.setdefault(name.split()[0], []).extend(rows)
    return {
        name: {
            "words": len(rows),
            "start_median_ms": round(1000 * float(np.median([s for s, _ in rows])), 1),
            "start_p95_ms": round(1000 * float(np.quantile([s for s, _ in rows], 0.95)), 1),
            "end_median_ms": round(1000 * float(np.median([e for _, e in rows])), 1),
            "end_p95_ms": round(1000 * float(np.quantile([e for _, e in rows], 0.95)), 1),
        }
        for name, rows in sorted({**found, **whole}.items())
    }


def table(results: dict[str, Any]) -> str:
    """The figures as the model card has them."""
    lines = [
        "| set | words | start, median | start, 95 % | end, median | end, 95 % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in results.items():
        figures = " | ".join(str(value) for value in row.values())
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the embedded aligner on all of it."""
    aligner = Aligner(TINY, device="cpu", dtype=torch.float32)
    result = {
        "checkpoint": TINY.name,
        "device": "cpu",
        "dtype": "float32",
        "results": summary(errors(aligner)),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    head, _, rest = CARD.read_text("utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    CARD.write_text(f"{head}{BEGIN}{table(result['results'])}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
