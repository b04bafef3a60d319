"""The real server, with a benchmark's engine and made-up words.

    python -m tests.bench.http_server SHAPE DEVICE [--settings of the predictor]

Prints `listening PORT`, then `ready`. `/bench/shares` tells what the engine has done so far,
and the processor time that this process has used.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from predictor.logs import configure_logging
from predictor.settings.fields import Settings
from predictor.settings.read import load_settings
from tests.bench.load import Shares

CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
NUM_WORDS = 4096


class Announcer(logging.Handler):
    """Tells the benchmark what the server logs about itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "listening":
            print("listening", record.__dict__["fields"]["http_port"], flush=True)
        elif record.getMessage() == "ready":
            print("ready", flush=True)


def stand_in_for_codecs() -> None:
    """WAV needs no codec; where PyAV is missing, an empty module lets the rest be imported."""
    try:
        import av  # noqa: F401
    except ImportError:
        package, error = ModuleType("av"), ModuleType("av.error")
        error.FFmpegError = package.error = Exception  # type: ignore[attr-defined]
        sys.modules |= {"av": package, "av.error": error}


def made_up_words() -> list[bytes]:
    """Words of 3 to 6 letters: random tokens decode to text that never repeats, like speech."""
    letters = random.Random(0)
    return [
        b" " + bytes(letters.choices(range(97, 123), k=letters.randint(3, 6)))
        for _ in range(NUM_WORDS)
    ]


def main() -> None:
    shape, device, *flags = sys.argv[1:]
    settings = load_settings([f"--model_dir={CHECKPOINT}", *flags], {})
    sys.argv[1:] = []  # KServe parses them while it is imported
    stand_in_for_codecs()
    from predictor.server import build_server
    from predictor.service import loading
    from predictor.text.tokenizer import TextTokenizer
    from tests.bench.http_engine import bench_engine, bench_process, forced

    configure_logging(settings.log_format, settings.log_level)
    logging.getLogger("predictor.server").addHandler(Announcer())
    words, shares, num_looked_up = made_up_words(), Shares(), 0

    def token_bytes(self: TextTokenizer, token_id: int) -> bytes:
        nonlocal num_looked_up
        num_looked_up += 1
        return words[num_looked_up % NUM_WORDS]

    TextTokenizer.token_bytes = token_bytes  # type: ignore[method-assign]

    def make_engine(
        settings: Settings, folder: Path, on_step: loading.Observer
    ) -> loading.MadeEngine:
        def observe(step: Any) -> None:
            shares.add(step)
            on_step(step)

        options = forced(loading.engine_options(settings))
        make = bench_process if loading.has_own_process(settings) else bench_engine
        return loading.MadeEngine(make(shape, device, options, observe), device, "auto")

    def look() -> dict[str, Any]:
        return {"cpu_s": time.process_time(), **asdict(shares)}

    server = build_server(settings, loading=loading.Loading(settings, make_engine))
    server.decoder.start = lambda: None  # type: ignore[method-assign]  # no codec, no worker
    server.app.add_api_route("/bench/shares", look)
    server.start()


if __name__ == "__main__":
    main()
