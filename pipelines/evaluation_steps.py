"""What the evaluation's steps in a pipeline do, as plain functions of paths and values.

KFP gives empty strings and zeros for what is not set; they become None here and nowhere else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.lib.drift import DriftLimits, find_drift
from pipelines.lib.errors import JournalError, PipelineError
from pipelines.lib.evaluation import ScoringOptions, build_report, read_report, write_report
from pipelines.lib.gate import GateLimits, judge_reports
from pipelines.lib.identity import Identity
from pipelines.lib.journal import SERVICE, read_journal
from pipelines.lib.manifest import read_manifest, write_manifest
from pipelines.lib.readers import read_dataset
from pipelines.lib.render import (
    comparison_html,
    comparison_markdown,
    report_html,
    report_markdown,
)
from pipelines.lib.spoken import with_languages
from pipelines.lib.tracking import report_metrics
from pipelines.lib.webhook import NotifyError, webhook

Numbers = dict[str, float]


class AlarmError(PipelineError):
    """A run that found what somebody must look at."""


def prepare(
    data: str, manifest: str, *, layout: str, split: str, language: str, limit: int
) -> None:
    """Write the data set's manifest with absolute paths."""
    clips = read_dataset(
        data, layout=layout or None, split=split or None, language=language or None
    )
    found, said = with_languages(clips[: limit or None])
    if said:
        logging.getLogger("pipelines.evaluation").warning("%s", said)
    write_manifest(manifest, found)


def score(
    manifest: str,
    journals: Sequence[str],
    report_path: str,
    page: str,
    summary: str,
    *,
    title: str,
    cluster_by: str,
    price_per_hour: float,
) -> tuple[Numbers, tuple[list[str], list[list[int]]]]:
    """Write the report three ways; its main numbers, and the language confusion as a matrix."""
    clips = read_manifest(manifest)
    headers, shards = zip(*(read_journal(Path(path)) for path in journals), strict=True)
    by_id = {record.clip_id: record for shard in shards for record in shard}
    options = ScoringOptions(cluster_by=cluster_by, price_per_hour=price_per_hour or None)
    asked = {key: headers[0][key] for key in ("model", "protocol")}
    asked |= headers[0][SERVICE]
    _check_same_model(headers)
    report = build_report(
        clips, [by_id[clip.id] for clip in clips], options, title=title, service=asked
    )
    write_report(Path(report_path), report)
    Path(page).write_text(report_html(report), encoding="utf-8")
    Path(summary).write_text(report_markdown(report), encoding="utf-8")
    numbers = report_metrics(report)
    if report["summary"]["errors"]["rate"] is not None:
        numbers["error_rate"] = report["summary"]["errors"]["rate"]  # of one metric only
    return numbers, _matrix(report["confusion"])


def _check_same_model(headers: Sequence[Mapping[str, Any]]) -> None:
    """All shards must be of one model: a rollout in between would mix two."""
    first = Identity(**headers[0][SERVICE]["identity"])
    for header in headers[1:]:
        changed = first.difference(header[SERVICE]["identity"])
        if changed is not None:
            raise JournalError(f"the shards were answered by different services: {changed}")


def judge(
    stable: str,
    candidate: str,
    limits: Mapping[str, Any],
    decision_path: str,
    page: str,
    summary: str,
) -> tuple[Numbers, bool]:
    """Write comparison and decision; the main numbers, and whether the candidate is accepted."""
    comparison, decision = judge_reports(
        read_report(Path(stable)), read_report(Path(candidate)), GateLimits.from_mapping(limits)
    )
    Path(decision_path).write_text(json.dumps(decision.as_json(), ensure_ascii=False), "utf-8")
    Path(page).write_text(comparison_html(comparison, decision), encoding="utf-8")
    Path(summary).write_text(comparison_markdown(comparison, decision), encoding="utf-8")
    numbers = {c.name.replace(" ", "_"): c.value for c in decision.checks if c.value is not None}
    return {**numbers, "accepted": float(decision.accepted)}, decision.accepted


def drift(
    baseline: str, report: str, limits: Mapping[str, Any], summary: str
) -> tuple[Numbers, bool]:
    """Write the checks as Markdown; their values, and whether any is beyond its limit."""
    checks = find_drift(
        read_report(Path(baseline)), read_report(Path(report)), DriftLimits(**limits)
    )
    lines = [f"- {'✓' if check.passed else '✗'} {check.reason}" for check in checks]
    drifted = not all(check.passed for check in checks)
    title = "# Drift" if drifted else "# No drift"
    Path(summary).write_text("\n".join([title, "", *lines]) + "\n", encoding="utf-8")
    numbers = {c.name.replace(" ", "_"): c.value for c in checks if c.value is not None}
    return {**numbers, "drifted": float(drifted)}, drifted


def alarm(summary: str, *, title: str, webhook_url: str, fail: bool) -> None:
    """Tell the webhook what the summary says; AlarmError if the run is to fail for it."""
    text = Path(summary).read_text(encoding="utf-8")
    notify = webhook(webhook_url)
    if notify is not None:
        try:
            notify({"text": f"{title}\n{text}", "event": "alarm", "title": title})
        except NotifyError as error:
            logging.getLogger("pipelines.evaluation").warning("%s", error)
    if fail:
        raise AlarmError(f"{title}: {text}")


def _matrix(confusion: Mapping[str, Mapping[str, int]]) -> tuple[list[str], list[list[int]]]:
    """Spoken against detected language as KFP's square confusion matrix."""
    names = sorted({*confusion, *(name for row in confusion.values() for name in row)})
    return names, [[confusion.get(row, {}).get(name, 0) for name in names] for row in names]
