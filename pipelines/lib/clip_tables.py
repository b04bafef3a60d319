"""What pages show of single recordings: alignments to read, sounds to play, rows to sort."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.lib.clips_audio import embed_audio
from pipelines.lib.compare import Comparison
from pipelines.lib.evaluation import Report
from pipelines.lib.normalize import DEFAULT, Metric, normalize, units
from pipelines.lib.score import Span, align

NUM_WORST = 50
MAX_ROWS = 5000  # of the table; those with most errors


def worst_clips(report: Report, number: int = NUM_WORST) -> list[dict[str, Any]]:
    """Failed recordings and those with most errors, worst first; none without any error."""
    rows = [r for r in report["clips"] if r["error"] or (r["errors"] and r["kind"] != "unscored")]
    return sorted(rows, key=_worst_first)[:number]


def playable(
    report: Report, number: int, budget_bytes: int, *, allow_remote: bool
) -> list[dict[str, Any]]:
    """The worst recordings with their alignments, and their sounds until the budget is used up."""
    rows = worst_clips(report, number)
    normalizer = report["scoring"]["normalizer"]
    audio = embed_audio([r["audio"] for r in rows], budget_bytes, allow_remote=allow_remote)
    return [{**r, "spans": aligned(r, normalizer), "uri": audio.get(r["audio"])} for r in rows]


def table_json(report: Report, worst: Sequence[Mapping[str, Any]]) -> str:
    """The recordings as JSON that may stand inside a page; sounds are those of `worst` above it."""
    sounds = {row["id"]: i for i, row in enumerate(worst) if row["uri"]}
    spans = {row["id"]: row["spans"] for row in worst}
    normalizer = report["scoring"]["normalizer"]
    rows = []
    for row in sorted(report["clips"], key=_worst_first)[:MAX_ROWS]:
        found = spans.get(row["id"]) or aligned(row, normalizer)
        rows.append(
            {
                "id": row["id"], "audio": row["audio"], "language": str(row["language"]),
                "errors": row["errors"], "error": row["error"],
                "rate": row["errors"] / row["num_reference"] if row["num_reference"] else None,
                "confidence": row["confidence"], "duration_s": row["duration_s"],
                "latency_s": row["latency_s"], "reference": row["reference"] or "",
                "hypothesis": row["hypothesis"], "sound": sounds.get(row["id"]),
                "tags": " ".join(f"{k}:{'/'.join(v)}" for k, v in row["tags"].items()),
                "spans": [_texts(span, row["metric"]) for span in found],
            }
        )  # fmt: skip
    return json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")


def changed_clips(
    comparison: Comparison, budget_bytes: int, *, allow_remote: bool, normalizer: str = DEFAULT
) -> list[dict[str, Any]]:
    """The most changed recordings, regressions first, both texts aligned to the reference."""
    rows = comparison["changed"]
    audio = embed_audio([r["audio"] for r in rows], budget_bytes, allow_remote=allow_remote)
    found = []
    for row in rows:
        asked = {"metric": row["metric"], "scored_as": row["language"], "alternative": None}
        sides = {
            side: aligned(
                {**asked, "reference": row["reference"], "hypothesis": row[side]}, normalizer
            )
            for side in ("stable", "candidate")
        }
        found.append({**row, "sides": sides, "uri": audio.get(row["audio"])})
    return found


def aligned(row: Mapping[str, Any], normalizer: str = DEFAULT) -> tuple[Span, ...]:
    """The alignment of a report's recording, in its metric's units, normalised."""
    metric = Metric(row["metric"])
    said, heard = (
        units(normalize(text or "", row["scored_as"], normalizer), metric)
        for text in (row["alternative"] or row["reference"], row["hypothesis"])
    )
    return align([said], [heard])[0]


def _texts(span: Span, metric: str) -> list[str]:
    between = "" if metric == Metric.CER else " "
    return [span.operation, between.join(span.reference), between.join(span.hypothesis)]


def _worst_first(row: Mapping[str, Any]) -> tuple[bool, int, str]:
    return (row["error"] is None, -row["errors"], row["id"])
