"""Evaluate one service on one set of recordings: ask, score, write the report.

The same function runs behind the command line, in a pipeline's step and in a notebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.lib.client import ServiceOptions
from pipelines.lib.defaults import AUDIO_BUDGET_BYTES
from pipelines.lib.evaluation import Report, ScoringOptions, build_report, write_report
from pipelines.lib.journal import SERVICE, Record, read_journal
from pipelines.lib.manifest import Clip
from pipelines.lib.render import report_html, report_markdown
from pipelines.lib.transcribe import AskOptions, Target, transcribe_together

JOURNAL = "journal.jsonl"
REPORT_JSON, REPORT_MARKDOWN, REPORT_HTML = "report.json", "report.md", "report.html"


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """How an evaluation is run, beside which service and which recordings."""

    concurrency: int = 8
    allow_remote: bool = False  # fetch recordings that the manifest names by URL
    show_progress: bool = False
    drafts: bool = False  # of two versions: send the first's transcript to the second
    audio_budget_bytes: int = AUDIO_BUDGET_BYTES  # for the recordings inside the HTML report
    scoring: ScoringOptions = field(default_factory=ScoringOptions)


def evaluate(
    clips: Sequence[Clip],
    service: ServiceOptions,
    out: Path,
    options: EvaluateOptions | None = None,
    *,
    title: str | None = None,
) -> Report:
    """Transcribe (continuing the journal in `out`), score, and write the report three ways.

    Raises PipelineError for anything the user can mend; requests that failed are in the report.
    """
    options = options or EvaluateOptions()
    (report,) = evaluate_together(clips, {title or "": (service, out)}, options).values()
    return report


def evaluate_together(
    clips: Sequence[Clip],
    versions: Mapping[str, tuple[ServiceOptions, Path]],
    options: EvaluateOptions,
) -> dict[str, Report]:
    """Evaluate several versions (by title: the service and its folder) under the same load.

    Every recording is asked of all of them in turn, so that neither has the quiet hour.
    """
    records = transcribe_together(
        clips,
        [Target(service, out / JOURNAL) for service, out in versions.values()],
        AskOptions(
            concurrency=options.concurrency,
            allow_remote=options.allow_remote,
            show_progress=options.show_progress,
            drafts=options.drafts,
        ),
    )
    return {
        title: write_evaluation(clips, found, service, out, options, title=title or None)
        for found, (title, (service, out)) in zip(records, versions.items(), strict=True)
    }


def write_evaluation(
    clips: Sequence[Clip],
    records: Sequence[Record],
    service: ServiceOptions,
    out: Path,
    options: EvaluateOptions,
    *,
    title: str | None,
) -> Report:
    """Score records that are there and write report.json, report.md and report.html to `out`."""
    description = describe_service(service, options)
    if (out / JOURNAL).exists():
        description["identity"] = read_journal(out / JOURNAL)[0][SERVICE]["identity"]
    title = title or default_title(description)
    report = build_report(clips, records, options.scoring, title=title, service=description)
    write_reports(report, out, options.audio_budget_bytes, allow_remote=options.allow_remote)
    return report


def write_reports(
    report: Report, out: Path, audio_budget_bytes: int, *, allow_remote: bool
) -> None:
    """report.json, report.md and report.html."""
    write_report(out / REPORT_JSON, report)
    (out / REPORT_MARKDOWN).write_text(report_markdown(report), encoding="utf-8")
    html = report_html(report, audio_budget_bytes=audio_budget_bytes, allow_remote=allow_remote)
    (out / REPORT_HTML).write_text(html, encoding="utf-8")


def default_title(description: Mapping[str, Any]) -> str:
    """What was evaluated: the checkpoint where the service says it, else model and address."""
    identity = description.get("identity", {})
    if "checkpoint" in identity:
        return str(identity["checkpoint"])
    return f"{description['model']} at {description['host'] or description['url']}"


def describe_service(service: ServiceOptions, options: EvaluateOptions) -> dict[str, Any]:
    """What a reader must know of the service and how it was asked; no secrets."""
    return {
        "url": service.url,
        "host": service.host_header,
        "model": service.model,
        "protocol": service.protocol,
        "language": "from the manifest" if service.send_language else "detected",
        "concurrency": options.concurrency,
    }
