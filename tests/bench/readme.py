"""Writes the tables of the READMEs that come from the benchmarks' result files; a start-*.json
counts where it was measured on the same kind of GPU as the engine's.

python -m tests.bench.readme
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.environment import ROOT
from tests.bench.host_tables import few, memory, own_work

ROWS = {
    "1.7B offline 30 s": ("1.7B, 30 s clips, 512 at once", "1.7B，30 秒音频，512 路并发"),
    "1.7B offline 10 s": ("1.7B, 10 s clips, 512 at once", "1.7B，10 秒音频，512 路并发"),
    "1.7B offline mixed": ("1.7B, 1 to 30 s, 512 at once", "1.7B，1–30 秒混合，512 路并发"),
    "1.7B plain runner, 64 x 10 s": (
        "64 clips of 10 s, without graphs and fused kernels",
        "64 条 10 秒音频，不用 CUDA graph 与融合 kernel",
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
    "0.6B offline 30 s": ("0.6B, 30 s clips, 512 at once", "0.6B，30 秒音频，512 路并发"),
    "0.6B offline 10 s": ("0.6B, 10 s clips, 512 at once", "0.6B，10 秒音频，512 路并发"),
}
START_ROWS = {
    "1.7B start, cold": (
        "1.7B, process start to first transcript over HTTP, kernels as in the image, cold disk",
        "1.7B，从进程启动到经 HTTP 得到首个转写，kernel如镜像所含，磁盘无缓存",
    ),
    "1.7B start, warm": (
        "the same, files in memory",
        "同上，文件已在内存",
    ),
    "1.7B start, compile": (
        "the same, files in memory, kernels to compile",
        "同上，文件已在内存，kernel待编译",
    ),
}
HEADS = (("what", "measured", "bound"), ("项目", "实测", "上限"))
HTTP_ROWS = {
    "256 x 30 s openai": "30 s WAV, 256 in flight, OpenAI's route (multipart)",
    "512 x 30 s openai": "the same, 512 in flight",
    "256 x 30 s v2": "30 s WAV, 256 in flight, V2 (binary)",
    "512 x 30 s v2": "the same, 512 in flight",
    "256 x 30 s v1": "30 s WAV, 256 in flight, V1 (the bare file)",
    "512 x 30 s v1": "the same, 512 in flight",
    "256 x 10 s openai": "10 s WAV, 256 in flight, OpenAI's route",
    "64 x 30 s openai": "30 s WAV, 64 in flight",
    "256 x 30 s openai flac": "30 s FLAC, 256 in flight",
    "256 x 30 s openai opus": "30 s Opus, 48 kHz, 256 in flight",
    "256 x 30 s openai mp3": "30 s MP3, 48 kHz stereo, 256 in flight",
    "8 x 8 s openai": "8 s WAV, 8 in flight",
    "one clip": "one 10 s WAV alone, whole",
}
LIVE_ROWS = {  # through sockets: seconds of a step, of an utterance, streams
    "1000 x 4 s": (0.5, 4.0, 1000), "600 x 16 s": (0.5, 16.0, 600),
}  # fmt: skip
# (file of results, its row, what it is)
SPEED_ROWS = (
    ("http-h200", "1.7B fronts 256 x 30 s openai", (
        "over HTTP, OpenAI's route: 30 s WAV, 256 in flight",
        "经 HTTP，OpenAI 接口：30 秒 WAV，256 路并发",
    )),
    ("http-h200", "1.7B fronts 64 x 30 s openai", ("64 in flight", "64 路并发")),
    ("http-h200", "1.7B fronts 256 x 10 s openai", (
        "10 s WAV, 256 in flight",
        "10 秒 WAV，256 路并发",
    )),
    ("http-h200", "1.7B fronts 256 x 30 s openai mp3", (
        "30 s MP3, 48 kHz stereo, 256 in flight",
        "30 秒 MP3，48 kHz 双声道，256 路并发",
    )),
    ("http-h200", "1.7B fronts one clip", (
        "one 10 s WAV alone, whole",
        "单条 10 秒 WAV，完整结果",
    )),
    ("live-h200", "1000 x 4 s", (
        "live, 1,000 streams of utterances of 4 s: from audio to its text, p95",
        "实时，1,000 路、每句 4 秒：从音频到文本，p95",
    )),
    ("live-h200", "600 x 16 s", (
        "600 streams that never pause, p95",
        "600 路、说话从不停顿，p95",
    )),
    ("offline-h200", "1.7B offline 30 s", (
        "engine alone: 30 s clips, 512 at once",
        "仅引擎：30 秒音频，512 路并发",
    )),
    ("offline-h200", "1.7B offline 10 s", (
        "10 s clips, 512 at once",
        "10 秒音频，512 路并发",
    )),
    ("offline-h200", "1.7B one 10 s clip", (
        "one 10 s clip, to the last token",
        "单条 10 秒音频，到最后一个 token",
    )),
    ("offline-h200", "1.7B one 30 s clip, first token", (
        "one 30 s clip, to the first token",
        "单条 30 秒音频，到首个 token",
    )),
    ("offline-h200", "1.7B 10 s draft", (
        "one 10 s clip with a right draft, to the last token",
        "单条 10 秒音频，草稿正确，到最后一个 token",
    )),
    ("offline-h200", "1.7B offline 30 s, fp8, 8-bit cache", (
        "`fp8` with a cache in 8 bit: 30 s clips, 512 at once",
        "`fp8`、8 位缓存：30 秒音频，512 路并发",
    )),
    ("offline-h200", "0.6B offline 30 s", (
        "0.6B: 30 s clips, 512 at once",
        "0.6B：30 秒音频，512 路并发",
    )),
)  # fmt: skip
ALONE_ROWS = {
    "1.7B offline 30 s": "1.7B, 30 s clips, 512 at once",
    "1.7B offline 10 s": "10 s clips, 512 at once",
    "1.7B offline mixed": "1 to 30 s, 512 at once",
    "1.7B one 10 s clip": "one 10 s clip, to the last token",
    "1.7B 10 s draft": "the same with a right draft",
    "1.7B one 30 s clip, first token": "one 30 s clip, to the first token",
    "0.6B offline 30 s": "0.6B, 30 s clips, 512 at once",
    "0.6B offline 10 s": "10 s clips, 512 at once",
    "0.6B one 10 s clip": "one 10 s clip, to the last token",
}
ALONE_PRECISIONS = ("", ", fp8", ", fp8, 8-bit cache")
ALONE_HEADS = ("engine alone, one H200", "`bf16`", "`fp8`", "`fp8`, 8-bit cache", "bound, `bf16`")
HTTP_HEADS = ("load", "measured", "median latency", "fronts", "decoders", "engine")
PRECISION_HEADS = (
    "`precision`", "`kv_precision`", "weights", "decode step, 1 sequence", "32", "256",
    "prefill of 600 s, language model", "30 s clips, 512 at once", "errors", "more than float32",
)  # fmt: skip
PRECISION_ROWS = ("bf16", "bf16+kv_fp8", "fp8", "fp8+kv_fp8", "int8")
PRECISION_CLIPS = 512  # at once; a row of fewer does not belong into that column
EDGE_PRECISIONS = ("fp32", "bf16", "int8")
EDGE_HEADS = (
    "`precision`", "first token", "last token", "real-time factor", "on one core",
    "server's memory", "English / Chinese errors, short", "long",
)  # fmt: skip
FILES = ("README.md", "README.zh-CN.md")  # their place is the `language` of a table
ENGINE = ("predictor/engine/README.md",)  # in English only
FOLDER = Path(__file__).parent / "results"
RESULTS = FOLDER / "engine-h100.json"


def load_results(engine: Path = RESULTS) -> dict[str, Any]:
    """The engine's results, with the rows of a start on the same kind of GPU among them."""
    results: dict[str, Any] = json.loads(engine.read_text())
    for file in sorted(engine.parent.glob("start-*.json")):
        start = json.loads(file.read_text())
        if start["environment"]["gpu"] == results["environment"]["gpu"]:
            measured = {key: row for key, row in start["rows"].items() if "value" in row}
            results["rows"] |= {key: measured[key] for key in START_ROWS if key in measured}
    return results


def performance(results: dict[str, Any], language: int) -> str:
    """What the measured GPU does, beside what it could do at best."""
    lines = [f"| {' | '.join(HEADS[language])} |", "| --- | ---: | ---: |"]
    started = {key: names for key, names in START_ROWS.items() if key in results["rows"]}
    for key, names in (ROWS | started).items():
        row = results["rows"][key]
        bound = results["limits"].get(key)
        unit = "" if "/" in row["unit"] else f" {row['unit']}"
        cells = [
            f"{_figure(row['value'], ratio=not unit)}{unit}",
            "" if bound is None else _figure(bound),
        ]
        lines.append(f"| {names[language]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speed(results: dict[str, Any], language: int) -> str:
    """The whole server, live speech and the engine alone, on one H200."""
    lines = [f"| {' | '.join(HEADS[language])} |", "| --- | ---: | ---: |"]
    for file, key, names in SPEED_ROWS:
        rows, limits = results[file]["rows"], results["offline-h200"]["limits"]
        if isinstance(rows, list):
            sockets = [row for row in rows if row["through"] != "engine"]
            names_row = ("step_s", "utterance_s", "streams")
            [row] = [r for r in sockets if tuple(map(r.get, names_row)) == LIVE_ROWS[key]]
            value, unit = row["p95_ms"], "ms"
        else:
            value, unit = rows[key]["value"], rows[key]["unit"]
        bound = limits.get(key)
        cells = (f"{_figure(value)} {unit}", "" if bound is None else _figure(bound))
        lines.append(f"| {names[language]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(value: float, ratio: bool = False) -> str:
    if ratio:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def http(results: dict[str, Any], _language: int) -> str:
    """The whole server over HTTP: what it does, and how many processors who of it is busy on."""
    lines = [f"| {' | '.join(HTTP_HEADS)} |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for load, name in HTTP_ROWS.items():
        row = results["rows"][f"1.7B fronts {load}"]
        cells = [f"{_figure(row['value'])} {row['unit']}"]
        cells.append(f"{row['latency']['p50_ms']:,.0f} ms" if "latency" in row else "")
        used = row.get("cpus", {})
        engine = used.get("engine reads", 0.0) + used.get("engine steps", 0.0)
        busy = (used.get("fronts"), used.get("decoders"), engine or None)
        cells += ["" if cpus is None else f"{cpus:.1f}" for cpus in busy]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def alone(results: dict[str, Any], _language: int) -> str:
    """The engine without a server, by precision."""
    lines = [f"| {' | '.join(ALONE_HEADS)} |", f"| --- |{' ---: |' * (len(ALONE_HEADS) - 1)}"]
    for key, name in ALONE_ROWS.items():
        found = [results["rows"].get(f"{key}{precision}") for precision in ALONE_PRECISIONS]
        cells = [f"{_figure(row['value'])} {row['unit']}" if row else "" for row in found]
        bound = results["limits"].get(key)
        lines.append(f"| {' | '.join([name, *cells, _figure(bound) if bound else ''])} |")
    return "\n".join(lines)


def precision(results: dict[str, Any], _language: int) -> str:
    """The precisions on the measured GPU."""
    heads, wrong = PRECISION_HEADS, results["errors"]["rows"]
    lines = [f"| {' | '.join(heads)} |", f"| --- | --- |{' ---: |' * (len(heads) - 2)}"]
    for name in PRECISION_ROWS:
        start, steps, prefill, offline = (
            results["rows"][f"1.7B {name} {row}"]
            for row in ("start", "decode steps", "prefill step", "offline 30 s")
        )
        weights, _, cache = name.partition("+kv_")
        cells = [f"`{weights}`", f"`{cache or 'auto'}`", f"{start['weights_gb']:.1f} GB"]
        cells += [f"{steps[f'step_{batch}_ms']:.2f} ms" for batch in (1, 32, 256)]
        cells.append(f"{prefill['language_model_ms']:.0f} ms")
        has_all = offline["num_slots"] == PRECISION_CLIPS
        cells += [f"{offline['value']:,.0f} RTFx" if has_all else ""]
        low, high = wrong[name]["interval"]
        cells.append(f"{wrong[name]['value']:.2f} %")
        cells.append(f"{wrong[name]['difference']:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def edge(results: dict[str, Any], _language: int) -> str:
    """What two CPU cores do, by precision."""
    heads = EDGE_HEADS
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for precision in EDGE_PRECISIONS:
        two, one, server, short, long = (
            results["rows"][name]
            for name in (
                f"0.6B {precision}, 2 threads",
                f"0.6B {precision}, 1 thread",
                f"0.6B {precision}, server",
                f"tiny {precision}, evaluation set, short",
                f"tiny {precision}, evaluation set, long",
            )
        )
        cells = [f"`{precision}`", f"{two['first_token_s']:.2f} s", f"{two['last_token_s']:.2f} s"]
        cells += [f"{two['rtf']:.2f}", f"{one['rtf']:.2f}", f"{server['rss_peak_mib']:,} MiB"]
        cells += [
            f"{r['English error %']:.2f} / {r['Chinese error %']:.2f} %" for r in (short, long)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """A table between two markers of the READMEs, and the results it is made from."""

    marker: str
    make: Callable[[dict[str, Any], int], str]
    results: Callable[[], dict[str, Any]]
    files: tuple[str, ...]

    def text(self, language: int) -> str:
        """The Markdown; `language` 0 is English, 1 Chinese."""
        return self.make(self.results(), language)

    def shown(self, text: str) -> str:
        """What stands between the markers."""
        return self._split(text)[1].strip()

    def put(self, text: str, language: int) -> str:
        head, _, tail = self._split(text)
        return f"{head}\n{self.text(language)}\n{tail}"

    def _split(self, text: str) -> tuple[str, str, str]:
        begin, end = f"<!-- {self.marker}:begin -->", f"<!-- {self.marker}:end -->"
        head, _, rest = text.partition(begin)
        content, _, tail = rest.partition(end)
        return head + begin, content, end + tail


def _read(name: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return results


TABLES = (
    Table("speed", speed, lambda: {file: _read(f"{file}.json") for file, *_ in SPEED_ROWS}, FILES),
    Table("performance", performance, load_results, ENGINE),
    Table("alone", alone, lambda: _read("offline-h200.json"), ENGINE),
    Table("few", few, lambda: _read("offline-h200.json"), ENGINE),
    Table("http", http, lambda: _read("http-h200.json"), ENGINE),
    Table("own-work", own_work, lambda: _read("own-work.json"), ENGINE),
    Table("memory", memory, lambda: _read("many-cpu.json"), ENGINE),
    Table(
        "precision",
        precision,
        lambda: _read("precision-h100.json") | {"errors": _read("precision-errors-h200.json")},
        ENGINE,
    ),
    Table("edge", edge, lambda: _read("edge-cpu.json"), ENGINE),
)


def main() -> None:
    for table in TABLES:
        for language, name in enumerate(table.files):
            path = ROOT / name
            path.write_text(table.put(path.read_text("utf-8"), language), "utf-8")


if __name__ == "__main__":
    main()
