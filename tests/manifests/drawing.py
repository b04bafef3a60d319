"""Panels of a Grafana dashboard drawn by matplotlib: its grid, titles, units and legends."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import dates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tests.manifests.queries import as_grafana

RATE_INTERVAL_S = 15  # Grafana takes four scrapes or more
CELL_IN, ROW_IN = 0.6, 0.36  # of Grafana's grid of 24 columns
Series = tuple[dict[str, str], list[tuple[float, float]]]
Named = Sequence[tuple[str, Series]]

# Grafana's names of units as they are written behind a number, and what scales it.
UNITS = {"none": ("", 1.0), "s": (" s", 1.0), "reqps": (" req/s", 1.0), "percentunit": (" %", 100)}
COLORS = ("#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#8f8f8f", "#0f8c8c", "#b8860b")
TEXT, FAINT, LINE = "#24292e", "#6e7781", "#d8dde2"


def unit_of(panel: dict[str, Any]) -> tuple[str, float]:
    name = panel["fieldConfig"]["defaults"].get("unit", "none")
    if name.startswith("suffix:"):
        return name.removeprefix("suffix:"), 1.0
    return UNITS[name]


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    """The legend's text with {{label}} filled in."""
    form = target.get("legendFormat", "")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), form)


def short(value: float) -> str:
    """A number in at most three digits, as Grafana shortens it."""
    for size, letter in ((1e6, " M"), (1e3, " K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _times(points: Sequence[tuple[float, float]]) -> list[datetime]:
    return [datetime.fromtimestamp(t) for t, _ in points]  # on the wall


def draw_stat(axes: Axes, panel: dict[str, Any], found: Named) -> None:
    """The last value, large, over its course: Grafana's stat panel."""
    suffix, factor = unit_of(panel)
    axes.axis("off")
    for _, (_, points) in found[:1]:
        values = [v * factor for _, v in points]
        axes.fill_between(range(len(values)), values, color=COLORS[0], alpha=0.12, lw=0)
        axes.plot(values, color=COLORS[0], lw=0.8)
        axes.set_ylim(0, max(max(values) * 2.6, 1e-9))  # the number stands above the course
        axes.set_xlim(0, max(len(values) - 1, 1))
        text = short(values[-1]) + suffix
        axes.text(0.5, 0.66, text, transform=axes.transAxes, ha="center", va="center", size=19,
                  color=TEXT)  # fmt: skip


def draw_table(axes: Axes, panel: dict[str, Any], found: Named) -> None:
    """Labels and last value of each series."""
    axes.axis("off")
    organized = panel["transformations"][0]["options"]
    columns = sorted(organized["indexByName"], key=organized["indexByName"].__getitem__)
    rows = [
        [labels.get(each, f"{points[-1][1]:.0f}") for each in columns]
        for _, (labels, points) in found
    ]
    heads = [organized["renameByName"].get(each, each) for each in columns]
    place: Any = {"loc": "upper center", "cellLoc": "left", "edges": "horizontal"}
    table = axes.table(rows, colLabels=heads, **place)
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.auto_set_column_width(list(range(len(columns))))
    table.scale(1, 1.5)


def draw_lines(axes: Axes, panel: dict[str, Any], found: Named) -> None:
    """A line for each series over the time of day."""
    suffix, factor = unit_of(panel)
    highest = 0.0
    for index, (name, (_, points)) in enumerate(found):
        values = [v * factor for _, v in points]
        highest = max([highest, *values])
        color = COLORS[index % len(COLORS)]
        axes.plot(_times(points), values, label=name, lw=1.1, color=color)
    most = panel["fieldConfig"]["defaults"].get("max", 0) * factor
    # Where nothing happened there is a line at zero.
    axes.set_ylim(-0.01 * (most or highest or 1), 1.06 * (most or highest or 1))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value) + suffix))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.grid(color=LINE, lw=0.5)
    axes.tick_params(labelsize=7.5, colors=FAINT, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if found:
        longest = max(len(name) for name, _ in found)
        columns = max(1, min(len(found), 52 // (longest + 4)))
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.1), ncols=columns, fontsize=7.5,
            frameon=False, borderaxespad=0.6, handlelength=1.2, columnspacing=1.2,
            labelcolor=TEXT,
        )  # fmt: skip


DRAW: dict[str, Callable[[Axes, dict[str, Any], Named], None]] = {
    "stat": draw_stat,
    "table": draw_table,
    "timeseries": draw_lines,
}
MARGINS = {  # inside a panel, in cells: left, top, bottom
    "stat": (0.1, 0.9, 0.0),
    "table": (0.3, 1.2, 0.2),
    "timeseries": (1.6, 1.3, 2.0),
}


def draw(
    board: dict[str, Any],
    ask: Callable[[str], list[Series]],
    path: Path,
    between: tuple[float, float],
) -> Figure:
    """All panels of a board, with the answers of `ask` to their expressions, as a PNG.

    `between`: the time shown, in seconds of the clock.
    """
    mpl.use("Agg")
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = plt.figure(figsize=(24 * CELL_IN, height * ROW_IN), facecolor="#f4f5f5")
    for panel in board["panels"]:
        place = panel["gridPos"]
        frame = (place["x"] / 24 + 0.002, 1 - (place["y"] + place["h"]) / height + 0.002)
        size = (place["w"] / 24 - 0.004, place["h"] / height - 0.004)
        figure.add_artist(Rectangle(frame, *size, facecolor="white", edgecolor=LINE, zorder=-1))
        left, top, bottom = MARGINS[panel["type"]]
        box = (
            (place["x"] + left) / 24,
            1 - (place["y"] + place["h"] - bottom) / height,
            (place["w"] - left - 0.3) / 24,
            (place["h"] - top - bottom) / height,
        )
        figure.text(
            (place["x"] + 0.3) / 24, 1 - (place["y"] + 0.35) / height, panel["title"], size=9.5,
            va="top", color=TEXT,
        )  # fmt: skip
        found = [
            (legend(target, series[0]), series)
            for target in panel["targets"]
            for series in ask(as_grafana(target["expr"], f"{RATE_INTERVAL_S}s"))
            if series[1]
        ]
        axes = figure.add_axes(box)
        DRAW[panel["type"]](axes, panel, found)
        if panel["type"] == "timeseries":
            axes.set_xlim(*(datetime.fromtimestamp(t) for t in between))
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return figure
