"""Writes the performance tables of both READMEs from tests/bench/results/engine-h200.json, and from
the start-*.json beside it that was measured on the same kind of GPU.

python -m tests.bench.readme
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.bench.environment import ROOT

RESULTS = Path(__file__).parent / "results" / "engine-h200.json"
BEGIN, END = "<!-- performance:begin -->", "<!-- performance:end -->"
ROWS = {
    "1.7B offline 30 s": ("1.7B, 30 s clips, 256 at once", "1.7B，30 秒音频，256 路并发"),
    "1.7B offline 10 s": ("1.7B, 10 s clips, 256 at once", "1.7B，10 秒音频，256 路并发"),
    "1.7B offline mixed": ("1.7B, 1 to 30 s, 256 at once", "1.7B，1–30 秒混合，256 路并发"),
    "1.7B offline 64 x 10 s": ("1.7B, 64 clips of 10 s", "1.7B，64 条 10 秒音频"),
    "1.7B plain runner, 64 x 10 s": (
        "the same without graphs and fused kernels",
        "同上，不用 CUDA graph 与融合算子",
    ),
    "1.7B generate, 32 x 10 s": (
        "transformers' `generate`, 32 clips of 10 s",
        "transformers `generate`，32 条 10 秒音频",
    ),
    "1.7B one 10 s clip": (
        "1.7B, one 10 s clip alone, to the last token",
        "1.7B，单条 10 秒音频，到最后一个 token",
    ),
    "1.7B one 30 s clip, first token": (
        "1.7B, one 30 s clip alone, to the first token",
        "1.7B，单条 30 秒音频，到首个 token",
    ),
    "1.7B steady 32 x 10 s, p95/p50": (
        "1.7B, steady 32 × 10 s: p95 over p50 latency",
        "1.7B，稳定 32 路 10 秒：延迟 p95/p50",
    ),
    "0.6B offline 30 s": ("0.6B, 30 s clips, 256 at once", "0.6B，30 秒音频，256 路并发"),
    "0.6B offline 10 s": ("0.6B, 10 s clips, 256 at once", "0.6B，10 秒音频，256 路并发"),
}
START_ROWS = {
    "1.7B start, cold": (
        "1.7B, process start to first transcript over HTTP, no caches",
        "1.7B，从进程启动到经 HTTP 得到首个转写，无任何缓存",
    ),
    "1.7B start, compile": (
        "the same, files in memory, kernels to compile",
        "同上，文件已在内存，算子待编译",
    ),
    "1.7B start, warm": (
        "the same, files in memory, kernels compiled earlier",
        "同上，文件已在内存，算子此前已编译",
    ),
}
HEADS = (("what", "measured"), ("项目", "实测"))
FILES = ("README.md", "README.zh-CN.md")


def load_results(engine: Path = RESULTS) -> dict[str, Any]:
    """The engine's results, with the rows of a start on the same kind of GPU among them."""
    results: dict[str, Any] = json.loads(engine.read_text())
    for file in sorted(engine.parent.glob("start-*.json")):
        start = json.loads(file.read_text())
        if start["environment"]["gpu"] == results["environment"]["gpu"]:
            measured = {key: row for key, row in start["rows"].items() if "value" in row}
            results["rows"] |= {key: measured[key] for key in START_ROWS if key in measured}
    return results


def table(results: dict[str, Any], language: int) -> str:
    """The Markdown table; `language` 0 is English, 1 Chinese."""
    what, measured = HEADS[language]
    lines = [f"| {what} | {measured} |", "| --- | ---: |"]
    started = {key: names for key, names in START_ROWS.items() if key in results["rows"]}
    for key, names in (ROWS | started).items():
        row = results["rows"][key]
        value = f"{row['value']:,.0f}" if row["value"] >= 100 else f"{row['value']:.3g}"
        unit = "" if "/" in row["unit"] else f" {row['unit']}"
        lines.append(f"| {names[language]} | {value}{unit} |")
    return "\n".join(lines)


def shown(text: str) -> str:
    """What stands between the markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    results = load_results()
    for language, name in enumerate(FILES):
        path = ROOT / name
        head, _, rest = path.read_text("utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        content = f"{head}{BEGIN}\n{table(results, language)}\n{END}{tail}"
        path.write_text(content, "utf-8")


if __name__ == "__main__":
    main()
