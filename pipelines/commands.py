"""What the commands about evaluations and pipelines do; each says whether the outcome was good."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import chosen
from pipelines import compile as compiler
from pipelines.archive import transcribe_archive
from pipelines.evaluate import JOURNAL, REPORT_HTML, default_title, evaluate, write_reports
from pipelines.lib.errors import JournalError, OptionError
from pipelines.lib.evaluation import Report, build_report, read_report
from pipelines.lib.gate import Verdict, judge_reports
from pipelines.lib.hypotheses import read_hypotheses
from pipelines.lib.journal import SERVICE, Record, read_journal
from pipelines.lib.limits import parse_margin
from pipelines.lib.plan import expected_of, needed
from pipelines.lib.render import (
    TREND,
    comparison_markdown,
    report_markdown,
    trend_html,
    trend_markdown,
    write_comparison,
)
from pipelines.lib.tracking import track_decision, track_report
from pipelines.lib.transcribe import AskOptions
from pipelines.local_service import LocalService
from pipelines.output import ExitCode, note, write, write_json

EXIT_CODES = {
    Verdict.ACCEPTED: ExitCode.OK,
    Verdict.REFUSED: ExitCode.REFUSED,
    Verdict.UNDECIDED: ExitCode.UNDECIDED,
}


def run_transcribe(parsed: argparse.Namespace) -> bool:
    """Transcribe an archive; good unless too many recordings were not answered."""
    if parsed.checkpoint is not None:
        with LocalService(parsed.checkpoint) as service:
            records = _transcribe(parsed, service.url)
    else:
        records = _transcribe(parsed, parsed.url)
    failed = sum(record.error is not None for record in records)
    found = {
        "recordings": len(records),
        "failed": failed,
        "hours": sum(record.duration_s or 0.0 for record in records) / 3600,
        "out": str(parsed.out),
    }
    if parsed.json:
        write_json(found)
    else:
        write("".join(f"{key}: {value}\n" for key, value in found.items()))
    return bool(failed <= parsed.max_failures * len(records))


def _transcribe(parsed: argparse.Namespace, url: str) -> list[Record]:
    ask = AskOptions(
        concurrency=parsed.concurrency,
        allow_remote=parsed.allow_remote,
        show_progress=not parsed.quiet,
        keep_segments=True,
        growing=True,
    )
    return transcribe_archive(
        parsed.source,
        chosen.service_options(parsed, url),
        parsed.out,
        ask,
        formats=parsed.formats.split(","),
        language=parsed.language,
    )


def run_evaluate(parsed: argparse.Namespace) -> bool:
    """Evaluate a service; good unless too many recordings were not answered."""
    if parsed.checkpoint is not None:
        with LocalService(parsed.checkpoint) as service:
            report = _evaluate(parsed, service.url)
    else:
        report = _evaluate(parsed, parsed.url)
    _show_report(parsed, report)
    failed = report["summary"]["failures"]
    if failed["rate"] > parsed.max_failures:
        codes = ", ".join(f"{code} {n}" for code, n in failed["codes"].items())
        note(
            f"{failed['count']} of {failed['of']} recordings were not answered ({codes}), at most "
            f"{parsed.max_failures:.0%} may be; the same command tries them again"
        )
    return bool(failed["rate"] <= parsed.max_failures)


def _evaluate(parsed: argparse.Namespace, url: str) -> Report:
    clips = chosen.read_clips(parsed)
    if (parsed.out / JOURNAL).exists():
        note(f"continuing {parsed.out / JOURNAL}; remove it to ask everything again")
    return evaluate(
        clips,
        chosen.service_options(parsed, url),
        parsed.out,
        chosen.evaluate_options(parsed),
        title=parsed.title,
    )


def run_rescore(parsed: argparse.Namespace) -> bool:
    """Score what is there anew."""
    clips = chosen.read_clips(parsed)
    scoring = chosen.scoring_options(parsed)
    if parsed.journal is not None:
        header, found = read_journal(parsed.journal)
        answered = header.get(SERVICE, {})
        service = {"rescored": str(parsed.journal), **answered}
        where = {"model": header.get("model"), "host": answered.get("address"), **answered}
        named = default_title(where)
        by_id = {record.clip_id: record for record in found}
        missing = [clip.id for clip in clips if clip.id not in by_id]
        if missing:
            raise JournalError(
                f"{parsed.journal}: holds no answer for {len(missing)} of {len(clips)} recordings, "
                f"such as {missing[0]!r}"
            )
        records = [by_id[clip.id] for clip in clips]
    else:
        service = {"hypotheses": str(parsed.hypotheses)}
        named = parsed.hypotheses.stem
        records = read_hypotheses(parsed.hypotheses, clips, parsed.form)
    report = build_report(clips, records, scoring, title=parsed.title or named, service=service)
    write_reports(report, parsed.out, parsed.audio_budget, allow_remote=parsed.allow_remote)
    _show_report(parsed, report)
    return True


def _show_report(parsed: argparse.Namespace, report: Report) -> None:
    if parsed.json:
        write_json({key: report[key] for key in ("title", "service", "summary", "slices")})
    else:
        write(report_markdown(report))
    note(f"report: {parsed.out / REPORT_HTML}")
    if said := track_report(report, parsed.out):
        note(said)


def run_trend(parsed: argparse.Namespace) -> bool:
    """Error rates over several reports."""
    reports = [read_report(Path(path)) for path in parsed.reports]
    if parsed.out is not None:
        parsed.out.mkdir(parents=True, exist_ok=True)
        (parsed.out / TREND).write_text(trend_html(reports), encoding="utf-8")
        note(f"trend: {parsed.out / TREND}")
    if parsed.json:
        write_json([{"title": r["title"], **r["summary"]["by_metric"]} for r in reports])
    else:
        write(trend_markdown(reports))
    return True


def run_compare(parsed: argparse.Namespace) -> int:
    """Compare two reports; the verdict as an exit code."""
    stable, candidate = read_report(Path(parsed.stable)), read_report(Path(parsed.candidate))
    comparison, decision = judge_reports(stable, candidate, chosen.gate_limits(parsed))
    if parsed.out is not None:
        write_comparison(comparison, decision, parsed.out)
        title = f"{candidate['title']} against {stable['title']}"
        if said := track_decision(title, decision.as_json(), comparison, parsed.out):
            note(said)
    if parsed.json:
        write_json({**comparison, "decision": decision.as_json()})
    else:
        write(comparison_markdown(comparison, decision))
    return EXIT_CODES[decision.verdict]


def run_plan(parsed: argparse.Namespace) -> bool:
    """How many recordings the gate needs."""
    margin = parse_margin(parsed.margin, "plan: margin")
    if margin is None:
        raise OptionError("plan: margin: none asks for no evaluation at all")
    expected = chosen.expected(parsed)
    asked = {"": expected}
    if parsed.report is not None:
        asked = expected_of(read_report(parsed.report), expected)
    found = {language: needed(margin, each) for language, each in asked.items()}
    if parsed.json:
        write_json({language or "all": each.as_json() for language, each in found.items()})
        return True
    for language, each in found.items():
        write(
            f"{language + ': ' if language else ''}{each.clips} recordings of {each.speakers} "
            f"speakers, {each.hours:.1f} h, for a margin of {margin} at a rate of "
            f"{asked[language].rate:.2%} and a power of {asked[language].power:.0%}\n"
        )
    return True


def run_compile(parsed: argparse.Namespace) -> bool:
    """Write the pipelines' YAML."""
    written = compiler.compile_all(parsed.out, image=parsed.image)
    if parsed.json:
        write_json([str(path) for path in written])
    else:
        write("".join(f"{path}\n" for path in written))
    return True


def run_submit(parsed: argparse.Namespace) -> bool:
    """Hand a pipeline to Kubeflow, or run it here."""
    parameters: dict[str, str] = {}
    for text in parsed.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"set: {text!r} is not NAME=VALUE")
        parameters[name] = value
    if parsed.local is not None:
        for option in ("cron", "image", "run_name", "kfp_namespace"):
            if getattr(parsed, option) is not None:
                raise OptionError(
                    f"{option}: is for a server (--kfp), not for a run on this machine"
                )
        submitted = compiler.run_locally(parsed.pipeline, parameters, parsed.local)
    else:
        submitted = compiler.submit(
            parsed.pipeline,
            parameters,
            host=parsed.kfp,
            namespace=parsed.kfp_namespace,
            experiment=parsed.experiment,
            image=parsed.image,
            cron=parsed.cron,
            run_name=parsed.run_name,
        )
    if parsed.json:
        write_json(submitted)
    else:
        write("".join(f"{key}: {value}\n" for key, value in submitted.items()))
    return True
