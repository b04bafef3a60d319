"""Figures of reports, as matplotlib Figure objects: notebooks show them, reports embed them as SVG.

Colours are of the Okabe-Ito palette, distinguishable for colour-blind readers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.lib.capacity import CapacityPlan
from pipelines.lib.compare import Comparison
from pipelines.lib.evaluation import Report

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8a8a8a"
COLORS = (BLUE, ORANGE, GREEN, GREY)
WIDTH_IN = 7.0
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "svg.hashsalt": "report",  # equal reports give equal bytes
    "svg.fonttype": "path",
}


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element without XML head, for embedding in HTML."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def error_rates(report: Report) -> Figure:
    """Error rate of every slice with its confidence interval, the whole set on top."""
    metrics = report["summary"]["by_metric"]
    rows: list[tuple[str, Mapping[str, Any]]] = [
        ("all" if len(metrics) == 1 else f"all, {metric.upper()}", errors)
        for metric, errors in metrics.items()
    ]
    for name, groups in report["slices"].items():
        for value, group in groups.items():
            several = len(group["by_metric"]) > 1
            rows += [
                (f"{name}: {value}" + (f", {metric.upper()}" if several else ""), errors)
                for metric, errors in group["by_metric"].items()
            ]
    rows = [(label, errors) for label, errors in rows if errors["rate"] is not None]
    figure, axes = _axes(0.6 + 0.24 * max(len(rows), 1))
    for position, (_, errors) in enumerate(reversed(rows)):
        if errors["interval"] is not None:
            ends = [end * 100 for end in errors["interval"]]
            axes.plot(ends, [position] * 2, color=BLUE, linewidth=2, alpha=0.5)
        axes.plot(errors["rate"] * 100, position, "o", color=BLUE, markersize=5, clip_on=False)
    labels = [f"{label}  ({errors['num_reference']})" for label, errors in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"error rate, % of reference units (in brackets), {_level(report)} interval")
    return figure


def clip_rates(report: Report) -> Figure:
    """How many recordings have which error rate: whether few bad ones make the mean."""
    rows = [r for r in report["clips"] if r["kind"] == "speech" and r["error"] is None]
    rates = [min(r["errors"] / r["num_reference"], 1.0) * 100 for r in rows if r["num_reference"]]
    figure, axes = _axes(2.4)
    axes.hist(rates, bins=[*range(0, 101, 5)], color=BLUE, alpha=0.6)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlim(0, 100)
    axes.set_xlabel("error rate of a recording, % (100 and more in the last bar)")
    axes.set_ylabel("recordings")
    return figure


def trend(reports: Sequence[Report]) -> Figure:
    """Error rates by language over reports in their order, with intervals."""
    series: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for position, report in enumerate(reports):
        for language, group in report["slices"].get("language", {}).items():
            for errors in group["by_metric"].values():
                series.setdefault(language, []).append((position, errors))
    figure, axes = _axes(3.2)
    for (language, points), color in zip(sorted(series.items()), COLORS * 10, strict=False):
        places = [position for position, _ in points]
        axes.plot(places, [e["rate"] * 100 for _, e in points], "o-", color=color, label=language)
        for position, errors in points:
            if errors["interval"] is not None:
                ends = [end * 100 for end in errors["interval"]]
                axes.plot([position] * 2, ends, color=color, alpha=0.5)
    axes.set_xticks(range(len(reports)), [report["title"] for report in reports], rotation=20)
    axes.set_ylabel("error rate, %")
    axes.set_ylim(bottom=0)
    if series:
        axes.legend(frameon=False)
    return figure


def latencies(reports: Sequence[Report]) -> Figure:
    """Share of recordings answered within a time, one line a report."""
    figure, axes = _axes(2.6)
    for report, color in zip(reports, (BLUE, ORANGE, GREEN, GREY), strict=False):
        values = np.sort([r["latency_s"] for r in report["clips"] if r["latency_s"] is not None])
        if values.size:
            share = np.arange(1, values.size + 1) / values.size
            axes.step(values, share * 100, where="post", color=color, label=report["title"])
    axes.set_xlabel("latency, s")
    axes.set_ylabel("recordings answered, %")
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    if axes.has_data():
        axes.legend(frameon=False)
    return figure


def reliability(report: Report) -> Figure:
    """Confidence against the share of recordings without any error, and how many there are."""
    calibration = report["summary"]["calibration"]
    figure, axes = _axes(3.0)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfect")
    bins = [b for b in calibration["bins"] if b["num_clips"]] if calibration else []
    if bins:
        axes.plot(
            [b["mean_confidence"] for b in bins],
            [b["accuracy"] for b in bins],
            "o-",
            color=BLUE,
            clip_on=False,  # a perfect bin lies on the frame
            label=f"observed, ECE {calibration['ece']:.3f}",
        )
        for b in bins:
            axes.annotate(
                str(b["num_clips"]),
                (b["mean_confidence"], b["accuracy"]),
                textcoords="offset points",
                xytext=(4, 5),
                color=GREY,
            )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence (beside the points: recordings)")
    axes.set_ylabel("share without error")
    axes.legend(frameon=False, loc="upper left")
    return figure


def differences(comparison: Comparison) -> Figure:
    """Candidate minus stable error rate with paired intervals, by language, largest first."""
    rows = sorted(comparison["by_language"].items(), key=lambda row: -abs(row[1]["difference"]))
    figure, axes = _axes(0.7 + 0.3 * max(len(rows), 1))
    axes.axvline(0, color=GREY, linewidth=1)
    for position, (_, found) in enumerate(reversed(rows)):
        color = BLUE
        if found["low"] is not None:
            color = GREEN if found["high"] <= 0 else ORANGE if found["low"] > 0 else BLUE
            ends = [found["low"] * 100, found["high"] * 100]
            axes.plot(ends, [position] * 2, color=color, linewidth=2, alpha=0.6)
        axes.plot(found["difference"] * 100, position, "o", color=color, markersize=5)
    axes.set_yticks(range(len(rows)), [label for label, _ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("error rate, candidate minus stable, points (left: the candidate is better)")
    return figure


def capacity(plan: CapacityPlan) -> Figure:
    """Audio that arrives in each hour of the day, and the replicas for it."""
    figure, axes = _axes(2.6)
    hours = [hour.hour for hour in plan.hours]
    axes.bar(hours, [hour.replicas for hour in plan.hours], color=BLUE, alpha=0.35)
    axes.set_xlabel("hour of the day")
    axes.set_ylabel("replicas", color=BLUE)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    with mpl.rc_context(STYLE):
        arriving = axes.twinx()
    arriving.plot(hours, [hour.audio_rate for hour in plan.hours], color=ORANGE)
    arriving.set_ylabel("audio seconds a second", color=ORANGE)
    arriving.set_ylim(bottom=0)
    arriving.grid(visible=False)
    return figure


def _axes(height_in: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, max(height_in, 1.4)), layout="constrained")
        return figure, figure.add_subplot()


def _level(report: Report) -> str:
    return f"{report['scoring']['level']:.0%}"
