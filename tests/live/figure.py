"""Draws docs/live.svg from the results: latency over streams, and what a minute of talk costs.

    python -m tests.live.figure

Writes what the README of live speech says of them as well.

Left: live-h200.json of tests/bench/results. Right: a step's milliseconds of the device beside the
scheme of the model's authors, whose every step takes all audio so far (live-minutes-h200.json); or,
as long as that was not measured, tokens (cpu.json of tests/live/results), where of their scheme the
audio tokens alone are counted, 13 a second, in steps of 2 s.
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
DEVICE_MINUTES = RESULTS / "live-minutes-h200.json"
README = ROOT / "predictor" / "live" / "README.md"
FIGURE = ROOT / "docs" / "live.svg"
COLOURS = {4.0: "#1a5fd0", 16.0: "#b3261e", 24.0: "#8a5a00"}
KINDS = {4.0: "a pause every 4 s", 16.0: "never a pause", 24.0: "never a dip"}
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
    by_kind: dict[tuple[bool, float], list[Point]] = defaultdict(list)
    for row in rows:
        if row["step_s"] == 0.5 and "p95_ms" in row:
            kind = (row["through"] == "engine", row["utterance_s"])
            by_kind[kind].append((row["streams"], row["p95_ms"]))
    y = 56
    for (is_engine, utterance_s), points in sorted(by_kind.items()):
        colour = COLOURS[utterance_s]
        lines += panel.line(sorted(points), colour, dashes="4 3" if is_engine else "")
        name = KINDS[utterance_s] + (", engine alone" if is_engine else ", WebSockets")
        dash = ' stroke-dasharray="4 3"' if is_engine else ""
        lines.append(f'<path d="M62 {y - 4}h22" stroke="{colour}" stroke-width="2"{dash}/>')
        lines.append(_text(90, y, name, "start"))
        y += 17
    return lines


def streams_table(rows: list[dict[str, Any]]) -> str:
    """The README's table of the rows on a GPU."""
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
        what = f"{streams:,}, {KINDS[utterance_s]}"
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
    lines += panel.line(ours, COLOURS[4.0])
    lines.append(_text(*_beside(panel, theirs[35], 22), "all audio anew in each step", "middle"))
    lines.append(_text(*_beside(panel, ours[len(ours) // 2], -10), "here", "middle"))
    return lines


def device_costs(measured: dict[str, Any]) -> list[str]:
    """Milliseconds of the device for a step, by how long the stream has run."""
    low, high = -1.0, 3.0  # powers of ten
    panel = Panel(
        485, "ms of the device for one step: one H200", lambda x: x / 60,
        lambda y: (math.log10(y) - low) / (high - low),
        [(n, str(n)) for n in (0, 10, 20, 30, 40, 50, 60)],
        [(0.1, "0.1"), (1, "1"), (10, "10"), (100, "100"), (1000, "1,000")],
        "minutes since the stream began",
    )  # fmt: skip
    ours = [(row["minute"], row["device_ms_a_step"]) for row in measured["minutes"]]
    theirs = [
        (row["age_s"] / 60, row["device_ms_a_step"])
        for row in measured["official"]
        if "error" not in row
    ]
    lines = panel.frame()
    lines += panel.line(theirs, "#666b73", dashes="4 3")
    lines += panel.line(ours, COLOURS[4.0])
    lines.append(_text(*_beside(panel, theirs[-1], 22), "all audio anew in each step", "end"))
    lines.append(_text(*_beside(panel, ours[len(ours) // 2], -10), "here", "middle"))
    return lines


def minutes_text(measured: dict[str, Any]) -> str:
    """The README's sentence about a step's cost by the minute."""
    rows, flat = measured["minutes"], measured["flatness"]
    theirs = [
        f"{row['device_ms_a_step']:,.0f} at {row['age_s'] / 60:,.3g} min"
        for row in measured["official"]
        if "error" not in row
    ]
    return (
        f"A step took {rows[0]['device_ms_a_step']:.3f} ms of the device in minute 1 and "
        f"{rows[-1]['device_ms_a_step']:.3f} in minute {rows[-1]['minute']}; no minute is further "
        f"than {flat['largest_deviation_percent']:g} % from the middle one, and the trend over "
        f"all is {flat['trend_percent']:+g} %. One step of a stream that hears all anew, ms by its "
        f"age: {', '.join(theirs)}."
    )


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
    if DEVICE_MINUTES.exists():
        right = device_costs(json.loads(DEVICE_MINUTES.read_text("utf-8")))
    else:
        right = costs(json.loads(MINUTES.read_text("utf-8"))["flatness"])
    style = (
        "text{font:12px system-ui,sans-serif;fill:#33373d}.title{font-weight:600;font-size:13px}"
        ".end{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:#d5d8dc}"
    )
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 320" role="img" '
        'aria-label="Latency over streams, and cost over minutes">',
        f'<style>{style}</style><rect width="840" height="320" fill="#fff"/>',
        *latencies(rows),
        *right,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def put(text: str) -> str:
    """The README of live speech with what the results of the GPU say."""
    parts = {"streams": streams_table(json.loads(STREAMS.read_text("utf-8"))["rows"])}
    if DEVICE_MINUTES.exists():
        parts["minutes"] = minutes_text(json.loads(DEVICE_MINUTES.read_text("utf-8")))
    for marker, part in parts.items():
        head, begin, rest = text.partition(f"<!-- {marker}:begin -->")
        _, end, tail = rest.partition(f"<!-- {marker}:end -->")
        text = f"{head}{begin}\n{part}\n{end}{tail}" if begin and end else text
    return text


if __name__ == "__main__":
    FIGURE.write_text(draw(), "utf-8")
    README.write_text(put(README.read_text("utf-8")), "utf-8")
