"""`qwen3-asr bench`: how fast a checkpoint is on this machine, through the server's own parts."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictor import __version__
from predictor.cli.arguments import (
    add_checkpoint,
    add_recordings,
    check_file_out,
    command_parser,
    seconds_or_none,
    whole,
)
from predictor.cli.checkpoint import settings_for
from predictor.cli.errors import FAILED, OK, CliError
from predictor.cli.recognizer import RecordingError
from predictor.cli.recordings import BUNDLED, Found, find

if TYPE_CHECKING:
    from predictor.cli.local import LocalRecognizer
    from predictor.cli.recognizer import Recognizer
    from predictor.cli.standard import Row
    from predictor.engine import EngineClient
    from predictor.settings.fields import Settings

_ABOUT = """\
Measure throughput and latency on this machine, after a warm-up: the standard rows (speech of 10 and
30 s through the engine) beside ours, then recordings through everything but the network.

  qwen3-asr bench --checkpoint /models/Qwen3-ASR-1.7B --out bench.json
  qwen3-asr bench --checkpoint tiny --concurrency 1,8 --rounds 2 mine/

Decoding, speech detection and text are in the figures of recordings. Give recordings like those
that will come: throughput depends on their length.
"""


def run(argv: list[str]) -> int:
    """Print a table; write the same as JSON."""
    args = _parser().parse_args(argv)
    levels = _levels(args.concurrency)
    if args.out is not None:
        check_file_out(args.out)
    recordings = find(args.inputs or [str(BUNDLED)], recursive=True)
    from predictor.cli.standard import MANY  # numpy, which help must not wait for
    from predictor.service.engines import has_cuda

    more = args.set
    if has_cuda() and not any(each.startswith("max_num_seqs=") for each in more):
        more = [*more, f"max_num_seqs={MANY}"]
    settings = settings_for(args.checkpoint, more)
    names = _names(args.standard)
    from predictor.cli.local import LocalRecognizer

    with LocalRecognizer(settings, language=None, context="") as recognizer:
        data = [(each, each.read()) for each in recordings]
        report = {
            "version": __version__,
            "checkpoint": str(settings.model_id or settings.model_dir),
            "machine": _machine(),
            "recordings": len(recordings),
            "rounds": args.rounds,
        }
        try:
            level(recognizer, data, levels[0], 1)  # warm-up
            standard = _standard(recognizer, settings, args.seconds, names)
            rows = [level(recognizer, data, each, args.rounds) for each in levels]
        except RecordingError as error:
            raise CliError(str(error), FAILED) from error
    sys.stdout.write("\n" + table(rows))
    if args.out is not None:
        text = json.dumps({**report, "standard": standard, "rows": rows}, indent=2) + "\n"
        args.out.write_text(text, encoding="utf-8")
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("bench", _ABOUT)
    add = parser.add_argument
    add_recordings(parser, "FILE|DIR", "recordings (default: the package's)")
    add_checkpoint(parser)
    add("--concurrency", default="1,4,16", help="recordings at a time (default 1,4,16)")
    add(
        "--rounds",
        type=whole(1, 1_000_000),
        default=4,
        help="times that each recording is sent (default 4)",
    )
    counted = "that a standard row counts (default 10; 0 leaves them out)"
    add("--seconds", type=seconds_or_none, default=10.0, help=counted)
    add("--standard", default="", metavar="NAMES", help="only these standard rows, between slashes")
    add("--out", type=Path, metavar="FILE", help="write JSON here")
    return parser


def _standard(
    recognizer: LocalRecognizer, settings: Settings, window_s: float, only: Sequence[str]
) -> list[dict[str, Any]]:
    """Measure and print the standard rows; 0 seconds leave them out."""
    if window_s <= 0:
        return []
    from predictor.cli import standard
    from predictor.cli.waveform import waveform

    speech = standard.Speech([waveform(path, 30.0) for path in sorted(BUNDLED.glob("*.flac"))])
    rows: list[dict[str, Any]] = []

    async def one(row: Row, engine: EngineClient) -> dict[str, Any]:
        prompt, most = recognizer.prompt(), settings.max_num_seqs
        return await standard.measure(engine, prompt, speech, row, most=most, window_s=window_s)

    for row in standard.ROWS:
        if only and row.name not in only:
            continue
        sys.stderr.write(f"{row.name} ...\n")
        rows.append(recognizer.with_engine(partial(one, row)))
    size = _published_size(settings)
    beside = standard.ours(size)
    sys.stdout.write(standard.table(rows, beside, size))
    return [row | {"ours": beside["rows"].get(row["name"])} for row in rows]


def _names(given: str) -> list[str]:
    from predictor.cli.standard import ROWS

    names = [each.strip() for each in given.split("/") if each.strip()]
    unknown = [each for each in names if each not in {row.name for row in ROWS}]
    if unknown:
        raise CliError(f"--standard {unknown[0]}: must be of {' / '.join(r.name for r in ROWS)}")
    return names


def _published_size(settings: Settings) -> str | None:
    """ "1.7B" or "0.6B" for a model of that shape."""
    from predictor.model.checkpoint.published import PUBLISHED
    from predictor.model.checkpoint.source import resolve_model
    from predictor.model.config import ModelConfig

    folder = resolve_model(
        model_dir=settings.model_dir,
        model_id=settings.model_id,
        revision=settings.model_revision,
    )
    text = ModelConfig.from_folder(folder).text
    for name, config in PUBLISHED.items():
        if (config.text.hidden_size, config.text.num_layers) == (text.hidden_size, text.num_layers):
            return name
    return None


def _levels(given: str) -> list[int]:
    levels = [int(each) for each in given.split(",") if each.strip().isdigit() and int(each) > 0]
    if len(levels) != len(given.split(",")):
        raise CliError(f"--concurrency {given}: must be numbers above 0, separated by commas")
    return levels


def level(
    recognizer: Recognizer, data: Sequence[tuple[Found, bytes]], num_at_once: int, rounds: int
) -> dict[str, Any]:
    """One row: all recordings `rounds` times, so many at a time. Raises RecordingError."""
    began_s = time.monotonic()

    def one(item: tuple[Found, bytes]) -> tuple[float, float]:
        sent_s = time.monotonic()
        answer = recognizer.transcribe(item[1], item[0].name.name)
        return answer.duration_s, time.monotonic() - sent_s

    with ThreadPoolExecutor(num_at_once) as pool:
        answers = list(pool.map(one, [*data] * rounds))
    elapsed_s = time.monotonic() - began_s
    latencies = sorted(latency_s for _, latency_s in answers)
    audio_s = sum(duration_s for duration_s, _ in answers)
    return {
        "concurrency": num_at_once,
        "requests": len(answers),
        "audio_s": round(audio_s, 3),
        "elapsed_s": round(elapsed_s, 3),
        "times_real_time": round(audio_s / elapsed_s, 2),
        "latency_p50_s": round(statistics.median(latencies), 4),
        "latency_p95_s": round(latencies[min(len(latencies) - 1, int(0.95 * len(latencies)))], 4),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for people."""
    lines = [f"{'at once':>8} {'requests':>9} {'x real time':>12} {'p50':>9} {'p95':>9}"]
    for row in rows:
        line = f"{row['concurrency']:>8} {row['requests']:>9} {row['times_real_time']:>12.1f}"
        lines.append(f"{line} {row['latency_p50_s']:>7.3f} s {row['latency_p95_s']:>7.3f} s")
    return "\n".join(lines) + "\n"


def _machine() -> dict[str, Any]:
    import platform

    import torch

    has_cuda = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if has_cuda else None,
        "processor": platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
