"""Reports and comparisons as Markdown and as one HTML file that fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from pipelines.lib.client import Answer
from pipelines.lib.clip_tables import (
    NUM_WORST,
    changed_clips,
    playable,
    table_json,
    worst_clips,
)
from pipelines.lib.clips_audio import data_uri
from pipelines.lib.compare import Comparison
from pipelines.lib.defaults import AUDIO_BUDGET_BYTES
from pipelines.lib.evaluation import Report
from pipelines.lib.gate import Decision, Outcome
from pipelines.lib.normalize import Metric

COMPARISON = "comparison"  # file name of a written comparison, without its ending
TREND = "trend.html"


def report_html(
    report: Report, *, audio_budget_bytes: int = AUDIO_BUDGET_BYTES, allow_remote: bool = False
) -> str:
    """The report with plots and the worst recordings, aligned and playable."""
    from pipelines.lib import figures  # matplotlib takes a second to import: only for pages

    worst = playable(report, NUM_WORST, audio_budget_bytes, allow_remote=allow_remote)
    plots = {
        "Error rate": figures.error_rates(report),
        "Recordings": figures.clip_rates(report),
        "Latency": figures.latencies([report]),
        "Confidence": figures.reliability(report),
    }
    return _template("report.html.j2").render(
        report=report,
        summary=report["summary"],
        plots={name: figures.to_svg(figure) for name, figure in plots.items()},
        worst=worst,
        table=table_json(report, worst),
        script=_source("table.js"),
        columns=sorted({name for row in report["confusion"].values() for name in row}),
    )


def worst_html(
    report: Report, number: int = NUM_WORST, *, audio_budget_bytes: int = AUDIO_BUDGET_BYTES
) -> str:
    """Only the worst recordings, for a notebook."""
    worst = playable(report, number, audio_budget_bytes, allow_remote=False)
    return _template("worst.html.j2").render(worst=worst)


def transcript_html(name: str, audio: bytes, answer: Answer) -> str:
    """One recording beside what the service said, each piece with its confidence."""
    whole = {"text": answer.text, "confidence": answer.confidence}
    segments = [{"confidence": None, **segment} for segment in answer.segments or (whole,)]
    return _template("transcript.html.j2").render(
        name=name, answer=answer, segments=segments, uri=data_uri(audio)
    )


# Of a row of words: plays what lies between its times. Inline, since a notebook's page may run no
# script of its own.
_PLAY_WORD = (
    "const row = this, sound = row.closest('.words').querySelector('audio');"
    "clearInterval(sound.stopper);"
    "sound.currentTime = +row.dataset.start; sound.play();"
    "sound.stopper = setInterval(() => { if (sound.currentTime >= +row.dataset.end) {"
    " sound.pause(); clearInterval(sound.stopper); } }, 10)"
)


def words_html(name: str, audio: bytes, words: Sequence[Mapping[str, Any]]) -> str:
    """The words of one recording with their times, as rows that play their word when chosen."""
    rows = [{"confidence": None, **word} for word in words]
    return _template("words.html.j2").render(
        name=name, words=rows, uri=data_uri(audio), play=_PLAY_WORD
    )


def report_markdown(report: Report) -> str:
    """The report's numbers as Markdown tables."""
    text = _template("report.md.j2").render(
        report=report, summary=report["summary"], worst=worst_clips(report)[:10]
    )
    return text.rstrip("\n") + "\n"


def trend_html(reports: Sequence[Report]) -> str:
    """Error rates by language over several reports, as a page."""
    from pipelines.lib import figures

    return _template("trend.html.j2").render(
        reports=reports, plot=figures.to_svg(figures.trend(reports)), metrics=_metrics(reports)
    )


def trend_markdown(reports: Sequence[Report]) -> str:
    """Error rates over several reports, a line each, with the change since the one before."""
    return _template("trend.md.j2").render(reports=reports, metrics=_metrics(reports))


def _metrics(reports: Sequence[Report]) -> list[str]:
    return sorted({metric for report in reports for metric in report["summary"]["by_metric"]})


def comparison_html(
    comparison: Comparison,
    decision: Decision | None = None,
    *,
    audio_budget_bytes: int = AUDIO_BUDGET_BYTES,
    allow_remote: bool = False,
) -> str:
    """The comparison, the gate's decision when there is one, the regressions to listen to."""
    from pipelines.lib import figures

    return _template("comparison.html.j2").render(
        comparison=comparison,
        decision=decision,
        changed=changed_clips(
            comparison,
            audio_budget_bytes,
            allow_remote=allow_remote,
            normalizer=comparison["normalizer"],
        ),
        plot=figures.to_svg(figures.differences(comparison)),
    )


def comparison_markdown(comparison: Comparison, decision: Decision | None = None) -> str:
    """The comparison's numbers as Markdown tables."""
    text = _template("comparison.md.j2").render(comparison=comparison, decision=decision)
    return text.rstrip("\n") + "\n"


def write_comparison(comparison: Comparison, decision: Decision | None, folder: Path) -> None:
    """The comparison and the decision, three ways."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {**comparison, "decision": decision.as_json() if decision else None}
    text = json.dumps(whole, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    (folder / f"{COMPARISON}.json").write_text(text, encoding="utf-8")
    markdown, html = (
        render(comparison, decision) for render in (comparison_markdown, comparison_html)
    )
    (folder / f"{COMPARISON}.md").write_text(markdown, encoding="utf-8")
    (folder / f"{COMPARISON}.html").write_text(html, encoding="utf-8")


def _percent(rate: float | None, digits: int = 2) -> str:
    return "–" if rate is None else f"{rate * 100:.{digits}f} %"


def _points(rate: float) -> str:
    return f"{rate * 100:+.2f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(values: Sequence[float] | None) -> str:
    return "–" if values is None else f"{values[0] * 100:.2f}–{values[1] * 100:.2f}"


def _ends(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"not enough clusters ({found['num_clusters']})"
    return f"{_points(found['low'])} to {_points(found['high'])}"


def _rates(group: Mapping[str, Any]) -> str:
    """Each metric on its own: "CER 4.10 % (3.02–5.40), WER 8.20 % (6.10–10.90)"."""
    several = len(group["by_metric"]) > 1
    told = [
        f"{metric.upper() + ' ' if several else ''}{_percent(errors['rate'])} "
        f"({_interval(errors['interval'])})"
        for metric, errors in group["by_metric"].items()
    ]
    return ", ".join(told) or "–"


def _mark(outcome: Outcome) -> str:
    return {Outcome.KEPT: "✓", Outcome.BROKEN: "✗", Outcome.OPEN: "?"}[outcome]


def _rate_rows(comparison: Comparison) -> list[tuple[str, Mapping[str, Any]]]:
    """Languages and slices, the largest change first."""
    rows = list(comparison["by_language"].items())
    for tag, values in comparison["slices"].items():
        rows += [(f"{tag}: {value}", found) for value, found in values.items()]
    return sorted(rows, key=lambda row: -abs(row[1]["difference"]))


def _joined(span_units: Sequence[str], metric: str) -> str:
    return ("" if metric == Metric.CER else " ").join(span_units)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "number": _number,
        "interval": _interval,
        "joined": _joined,
        "ends": _ends,
        "mark": _mark,
        "rates": _rates,
        "rate_rows": _rate_rows,
    }
    return environment


def _source(name: str) -> str:
    return files("pipelines.lib").joinpath("templates", name).read_text(encoding="utf-8")


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)
