"""Draws docs/live.svg from the results: latency over streams, and what a minute of talk costs.

    python -m tests.live.figure

Left: live-h200.json of tests/bench/results. Right: cpu.json of
tests/live/results, beside the scheme of the model's authors, whose every step takes all audio so
far: of it the audio tokens alone are counted, 13 a second, in steps of 2 s.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"
STREAMS = RESULTS / "live-h200.json"
MINUTES = ROOT / "tests" / "live" / "results" / "cpu.json"
FIGURE = ROOT / "docs" / "live.svg"
COLOURS = {"4 s": "#1a5fd0", "24 s": "#b3261e"}
AUDIO_TOKENS_A_S, OFFICIAL_STEP_S = 13, 2

Point = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """A chart of 340 by 230 whose plot begins at (left, 40)."""

    left: int
    title: str
    x: Callable[[float], float]  # 0..1
    y: Callable[[float], float]  # 0..1 from below
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_name: str

    def place(self, point: Point) -> tuple[float, float]:
        return self.left + 340 * self.x(point[0]), 270 - 230 * self.y(point[1])

    def frame(self) -> list[str]:
        lines = [_text(self.left, 22, self.title, "title")]
        for value, name in self.y_ticks:
            y = 270 - 230 * self.y(value)
            lines.append(f'<path class="grid" d="M{self.left} {y:.1f}h340"/>')
            lines.append(_text(self.left - 6, y + 4, name, "end"))
        for value, name in self.x_ticks:
            lines.append(_text(self.left + 340 * self.x(value), 288, name, "middle"))
        lines.append(_text(self.left + 170, 306, self.x_name, "middle"))
        return lines

    def line(self, points: Sequence[Point], colour: str, *, dashes: str = "") -> list[str]:
        places = [self.place(point) for point in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        style = f' stroke-dasharray="{dashes}"' if dashes else ""
        drawn = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{style}/>']
        if len(places) < 10:
            drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
                      for x, y in places]  # fmt: skip
        return drawn


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{text}</text>'


def latencies(rows: list[dict[str, Any]]) -> list[str]:
    """p95 from the end of a chunk to its partial, at steps of 0.5 s."""
    most_ms, most = 600.0, 1000
    panel = Panel(
        50, "p95 of a partial's delay, ms: one H200, steps of 0.5 s", lambda x: x / most,
        lambda y: min(y, most_ms) / most_ms, [(n, str(n)) for n in (0, 250, 500, 750, 1000)],
        [(n, str(n)) for n in (0, 150, 300, 450, 600)], "streams that talk all the time",
    )  # fmt: skip
    lines = panel.frame()
    by_kind: dict[tuple[bool, str], list[Point]] = defaultdict(list)
    for row in rows:
        if row["step_s"] == 0.5 and "p95_ms" in row:
            kind = (row["through"] == "engine", f"{row['utterance_s']:g} s")
            by_kind[kind].append((row["streams"], row["p95_ms"]))
    y = 56
    for (is_engine, utterance), points in sorted(by_kind.items()):
        colour = COLOURS[utterance]
        lines += panel.line(sorted(points), colour, dashes="4 3" if is_engine else "")
        name = {"4 s": "pause every 4 s", "24 s": "never a pause"}[utterance]
        name += ", engine alone" if is_engine else ", WebSockets"
        dash = ' stroke-dasharray="4 3"' if is_engine else ""
        lines.append(f'<path d="M62 {y - 4}h22" stroke="{colour}" stroke-width="2"{dash}/>')
        lines.append(_text(90, y, name, "start"))
        y += 17
    return lines


def streams_table(rows: list[dict[str, Any]]) -> str:
    """The README's table of the rows on a GPU."""
    names = {4.0: "a pause every 4 s", 24.0: "never a pause"}
    lines = [
        "| streams | step | through WebSockets, p50 / p95 / p99 | engine alone |",
        "| --- | --- | --- | --- |",
    ]
    found: dict[tuple[float, float, int], dict[bool, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        key = (row["step_s"], row["utterance_s"], row["streams"])
        found[key][row["through"] == "engine"] = row
    for (step_s, utterance_s, streams), both in sorted(found.items()):
        cells = []
        for is_engine in (False, True):
            row = both.get(is_engine)
            figures = [f"{row[f'p{n}_ms']:,.0f}" for n in (50, 95, 99)] if row else []
            cells.append(f"{' / '.join(figures)} ms" if row else "")
        what = f"{streams:,}, {names[utterance_s]}"
        lines.append(f"| {what} | {step_s:g} s | {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(flat: dict[str, Any]) -> list[str]:
    """Tokens that a minute of talk takes, by how long the stream has run."""
    low, high = 3.0, 6.5  # powers of ten
    panel = Panel(
        485, "tokens computed for one minute of talk", lambda x: x / 60,
        lambda y: (math.log10(y) - low) / (high - low),
        [(n, str(n)) for n in (0, 10, 20, 30, 40, 50, 60)],
        [(1e3, "1,000"), (1e4, "10,000"), (1e5, "100,000"), (1e6, "1,000,000")],
        "minutes since the stream began",
    )  # fmt: skip
    a_minute = 60 / flat["round s"]
    ours = [
        (row["round"] * flat["round s"] / 60,
         a_minute * (row["prefilled tokens"] + row["decoded tokens"]))
        for row in flat["rows"]
    ]  # fmt: skip
    theirs = [(minute, official_tokens(minute)) for minute in range(1, 61)]
    lines = panel.frame()
    lines += panel.line(theirs, "#666b73", dashes="4 3")
    lines += panel.line(ours, COLOURS["4 s"])
    lines.append(_text(*_beside(panel, theirs[35], 22), "all audio anew in each step", "middle"))
    lines.append(_text(*_beside(panel, ours[len(ours) // 2], -10), "here", "middle"))
    return lines


def official_tokens(minute: int) -> int:
    """Audio tokens of the steps of minute 1, 2, … where each step takes all audio so far."""
    ends_s = range(60 * (minute - 1) + OFFICIAL_STEP_S, 60 * minute + 1, OFFICIAL_STEP_S)
    return sum(AUDIO_TOKENS_A_S * end_s for end_s in ends_s)


def _beside(panel: Panel, point: Point, down: float) -> tuple[float, float]:
    x, y = panel.place(point)
    return x, y + down


def draw() -> str:
    """The whole figure."""
    rows = json.loads(STREAMS.read_text("utf-8"))["rows"]
    flat = json.loads(MINUTES.read_text("utf-8"))["flatness"]
    style = (
        "text{font:12px system-ui,sans-serif;fill:#33373d}.title{font-weight:600;font-size:13px}"
        ".end{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:#d5d8dc}"
    )
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 320" role="img" '
        'aria-label="Latency over streams, and cost over minutes">',
        f'<style>{style}</style><rect width="840" height="320" fill="#fff"/>',
        *latencies(rows),
        *costs(flat),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FIGURE.write_text(draw(), "utf-8")
