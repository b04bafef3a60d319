"""What the commands about evaluations and pipelines do; each says whether the outcome was good."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import compile as compiler
from pipelines import options
from pipelines.evaluate import JOURNAL, REPORT_HTML, evaluate
from pipelines.lib.compare import compare_reports
from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import Report, read_report
from pipelines.lib.gate import decide
from pipelines.lib.render import comparison_markdown, report_markdown, write_comparison
from pipelines.local_service import LocalService
from pipelines.output import note, write, write_json


def run_evaluate(parsed: argparse.Namespace) -> bool:
    """Evaluate a service; good unless no recording was answered."""
    if parsed.checkpoint is not None:
        with LocalService(parsed.checkpoint) as service:
            report = _evaluate(parsed, service.url)
    else:
        report = _evaluate(parsed, parsed.url)
    if parsed.json:
        write_json({key: report[key] for key in ("title", "service", "summary", "slices")})
    else:
        write(report_markdown(report))
    note(f"report: {parsed.out / REPORT_HTML}")
    failed = report["summary"]["failures"]
    return bool(failed["count"] < failed["of"])


def _evaluate(parsed: argparse.Namespace, url: str) -> Report:
    clips = options.read_clips(parsed)
    if (parsed.out / JOURNAL).exists():
        note(f"continuing {parsed.out / JOURNAL}; remove it to ask everything again")
    return evaluate(
        clips,
        options.service_options(parsed, url),
        parsed.out,
        options.evaluate_options(parsed),
        title=parsed.title,
    )


def run_compare(parsed: argparse.Namespace) -> bool:
    """Compare two reports; good when the gate accepts the candidate."""
    stable, candidate = read_report(Path(parsed.stable)), read_report(Path(parsed.candidate))
    comparison = compare_reports(stable, candidate)
    decision = decide(comparison, options.gate_limits(parsed))
    if parsed.out is not None:
        write_comparison(comparison, decision, parsed.out)
    if parsed.json:
        write_json({**comparison, "decision": decision.as_json()})
    else:
        write(comparison_markdown(comparison, decision))
    return decision.accepted


def run_compile(parsed: argparse.Namespace) -> bool:
    """Write the pipelines' YAML."""
    written = compiler.compile_all(parsed.out, image=parsed.image)
    if parsed.json:
        write_json([str(path) for path in written])
    else:
        write("".join(f"{path}\n" for path in written))
    return True


def run_submit(parsed: argparse.Namespace) -> bool:
    """Hand a pipeline to Kubeflow."""
    parameters: dict[str, str] = {}
    for text in parsed.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"set: {text!r} is not NAME=VALUE")
        parameters[name] = value
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
