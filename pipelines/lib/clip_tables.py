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
TABLE_KEYS = (
    "id", "audio", "errors", "error", "confidence", "duration_s", "latency_s", "hypothesis",
)  # fmt: skip
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
    return [
        {**row, "spans": spans, "uri": audio.get(row["audio"])}
        for row, spans in zip(rows, aligned_all(rows, normalizer), strict=True)
    ]


def table_json(report: Report, worst: Sequence[Mapping[str, Any]]) -> str:
    """The recordings as JSON that may stand inside a page; sounds are those of `worst` above it."""
    sounds = {row["id"]: i for i, row in enumerate(worst) if row["uri"]}
    spans = {row["id"]: row["spans"] for row in worst}
    normalizer = report["scoring"]["normalizer"]
    shown = sorted(report["clips"], key=_worst_first)[:MAX_ROWS]
    left = [row for row in shown if row["id"] not in spans]
    spans |= {r["id"]: s for r, s in zip(left, aligned_all(left, normalizer), strict=True)}
    rows = [_table_row(row, sounds.get(row["id"]), spans[row["id"]]) for row in shown]
    return json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")


def _table_row(row: Mapping[str, Any], sound: int | None, spans: Sequence[Span]) -> dict[str, Any]:
    return {
        **{key: row[key] for key in TABLE_KEYS},
        "language": str(row["language"]),
        "reference": row["reference"] or "",
        "rate": row["errors"] / row["num_reference"] if row["num_reference"] else None,
        "sound": sound,
        "tags": " ".join(f"{k}:{'/'.join(v)}" for k, v in row["tags"].items()),
        "spans": [_texts(span, row["metric"]) for span in spans],
    }


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
    return aligned_all([row], normalizer)[0]


def aligned_all(
    rows: Sequence[Mapping[str, Any]], normalizer: str = DEFAULT
) -> list[tuple[Span, ...]]:
    """As `aligned`, of many at once; a text that was heard right is normalised once."""
    said, heard = [], []
    for row in rows:
        metric, language = Metric(row["metric"]), row["scored_as"]
        reference, hypothesis = (
            row["alternative"] or row["reference"] or "",
            row["hypothesis"] or "",
        )
        said.append(units(normalize(reference, language, normalizer), metric))
        same = hypothesis == reference
        heard.append(
            said[-1] if same else units(normalize(hypothesis, language, normalizer), metric)
        )
    return align(said, heard)


def _texts(span: Span, metric: str) -> list[str]:
    between = "" if metric == Metric.CER else " "
    return [span.operation, between.join(span.reference), between.join(span.hypothesis)]


def _worst_first(row: Mapping[str, Any]) -> tuple[bool, int, str]:
    return (row["error"] is None, -row["errors"], row["id"])
