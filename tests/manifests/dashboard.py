"""Draws the dashboard's panels from a real run: predictor, load, Prometheus, matplotlib.

    python -m tests.manifests.dashboard

Serves the tiny checkpoint on this machine, calls it over all protocols for a minute and a half, and
writes manifests/components/monitoring/dashboard.png: each panel's own queries, title, legend and
unit at its place on the grid. Needs Debian's `prometheus` and kubectl or kustomize.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipelines.lib.manifest import read_manifest
from pipelines.local_service import LocalService
from tests.manifests.callers import Callers
from tests.manifests.objects import MANIFESTS, ROOT, combine
from tests.manifests.prometheus import Prometheus
from tests.manifests.queries import as_grafana, dashboards

PICTURE = MANIFESTS / "components" / "monitoring" / "dashboard.png"
EVALUATION = ROOT / "tests" / "data" / "eval" / "manifest.jsonl"
NUM_CALLERS = 6
BURST_AT, BURST_S, NUM_BURST = 0.6, 12.0, 24  # more callers than the queue holds, for a while
HELD_S = 120  # of audio: small enough for the burst to fill it
RATE_INTERVAL_S = 15  # Grafana takes four scrapes or more
NOT_AUDIO = b"this is no recording"
SILENCE_S = 3
Series = tuple[dict[str, str], list[tuple[float, float]]]

# Grafana's names of units as they are written behind a number, and what scales it.
UNITS = {"none": ("", 1.0), "s": (" s", 1.0), "reqps": (" req/s", 1.0), "percentunit": (" %", 100)}


def unit_of(panel: dict[str, Any]) -> tuple[str, float]:
    name = panel["fieldConfig"]["defaults"].get("unit", "none")
    if name.startswith("suffix:"):
        return name.removeprefix("suffix:"), 1.0
    return UNITS[name]


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    """The legend's text with {{label}} filled in."""
    form = target.get("legendFormat", "")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), form)


def silence() -> bytes:
    """A WAV file in which nobody speaks."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * 16_000 * SILENCE_S))
    return buffer.getvalue()


def call_for(service: LocalService, seconds: float) -> None:
    """A steady load over all protocols, one call in twelve without audio, and one burst."""
    recordings = [Path(clip.audio).read_bytes() for clip in read_manifest(EVALUATION)]
    recordings += [silence()] * (len(recordings) // 10)
    callers = Callers(service)
    started = time.monotonic()

    def since() -> float:
        return time.monotonic() - started

    def call(seed: int, until: float) -> None:
        chosen = random.Random(seed)
        while since() < until:
            send = chosen.choice(list(callers.protocols.values()))
            send(NOT_AUDIO if chosen.random() < 1 / 12 else chosen.choice(recordings))

    def start(seeds: Sequence[int], until: float) -> list[threading.Thread]:
        threads = [threading.Thread(target=call, args=(seed, until)) for seed in seeds]
        for thread in threads:
            thread.start()
        return threads

    threads = start(range(NUM_CALLERS), seconds)
    threading.Event().wait(BURST_AT * seconds)
    threads += start(range(100, 100 + NUM_BURST), BURST_AT * seconds + BURST_S)
    for thread in threads:
        thread.join()
    callers.close()


def draw_stat(axes: Axes, panel: dict[str, Any], found: Sequence[tuple[str, Series]]) -> None:
    """The last value, large, as Grafana's stat panel."""
    suffix, factor = unit_of(panel)
    axes.axis("off")
    for name, (_, points) in found[:1]:
        value = points[-1][1] * factor
        text = f"{value:.0f}" if value == round(value) else f"{value:.1f}"
        axes.text(0.5, 0.4, text + suffix, ha="center", va="center", size=20, color="#256d33")
        if panel.get("options", {}).get("textMode") == "value_and_name":
            axes.text(0.5, 0.2, name, ha="center", va="center", size=6.5, color="#555555")


def draw_table(axes: Axes, panel: dict[str, Any], found: Sequence[tuple[str, Series]]) -> None:
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
    table.set_fontsize(9)
    table.scale(1, 1.6)


def draw_lines(axes: Axes, panel: dict[str, Any], found: Sequence[tuple[str, Series]]) -> None:
    """One line a series over the seconds of the run."""
    suffix, factor = unit_of(panel)
    for name, (_, points) in found:
        axes.plot([t for t, _ in points], [v * factor for _, v in points], label=name, lw=1.4)
    axes.set_ylabel(suffix.strip(), size=8)
    most = panel["fieldConfig"]["defaults"].get("max")
    axes.set_ylim(bottom=0, top=most and most * factor * 1.03)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("seconds", size=8)
    if found:
        columns = 4 if max(len(name) for name, _ in found) < 16 else 1
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.16),
            ncols=columns,
            fontsize=8,
            frameon=False,
            borderaxespad=0,
        )


DRAW: dict[str, Callable[[Axes, dict[str, Any], Sequence[tuple[str, Series]]], None]] = {
    "stat": draw_stat,
    "table": draw_table,
    "timeseries": draw_lines,
}


def draw(
    board: dict[str, Any], ask: Callable[[str], list[Series]], path: Path, cell: float = 0.62
) -> Figure:
    """All panels on Grafana's grid of 24 columns."""
    mpl.use("Agg")
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = plt.figure(figsize=(24 * cell, height * cell * 0.72), facecolor="#f4f5f5")
    for panel in board["panels"]:
        place = panel["gridPos"]
        frame = (place["x"] / 24, 1 - (place["y"] + place["h"]) / height)
        size = (place["w"] / 24 - 0.004, place["h"] / height - 0.004)
        figure.add_artist(
            Rectangle(frame, *size, facecolor="white", edgecolor="#dddddd", zorder=-1)
        )
        margin_x, margin_top, margin_bottom = 1.3, 1.0, 2.1
        box = (
            (place["x"] + margin_x) / 24,
            1 - (place["y"] + place["h"] - margin_bottom) / height,
            (place["w"] - margin_x - 0.4) / 24,
            (place["h"] - margin_top - margin_bottom) / height,
        )
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], loc="left", size=10, weight="bold")
        found = [
            (legend(target, series[0]), series)
            for target in panel["targets"]
            for series in ask(as_grafana(target["expr"], f"{RATE_INTERVAL_S}s"))
        ]
        DRAW[panel["type"]](axes, panel, found)
    figure.savefig(path, dpi=90)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        overlay, folder = Path(made) / "overlay", Path(made) / "prometheus"
        overlay.mkdir()
        folder.mkdir()
        objects = combine(overlay, ("standard-mode", "monitoring", "keda"))
        [(_, board)] = dashboards(objects)
        checkpoint = ROOT / "predictor" / "checkpoints" / "tiny"
        flags = ("--device=cpu", f"--max_held_audio_s={HELD_S}")
        with (
            LocalService(checkpoint, flags=flags) as service,
            Prometheus(objects, service.url, folder) as prometheus,
        ):
            start = time.time()
            call_for(service, options.seconds)
            end = time.time()

            def ask(expression: str) -> list[Series]:
                found = prometheus.query_range(expression, start, end)
                return [
                    (labels, [(t - start, v) for t, v in points if v == v])  # without NaN
                    for labels, points in found
                ]

            draw(board, ask, options.out)


if __name__ == "__main__":
    main()
