"""The real server, with a benchmark's engine and made-up words.

    python -m tests.bench.http_server SHAPE DEVICE [--settings of the predictor]

Prints `grpc PORT` and `listening PORT`, then `ready`; with several fronts also `engine ADDRESS`.
`/bench/shares` tells what the engine has done so far.
"""

from __future__ import annotations

import logging
import os
import random
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from predictor.logs import configure_logging
from predictor.settings.fields import Settings
from predictor.settings.read import load_settings
from tests.bench.load import Shares

if TYPE_CHECKING:  # imported once the codecs have their stand-in
    from predictor.engine import EngineClient

CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
NUM_WORDS = 4096


class Announcer(logging.Handler):
    """Tells the benchmark what the server logs about itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "listening":
            print("grpc", record.__dict__["fields"]["grpc_port"], flush=True)
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


def speak_made_up_words() -> None:
    """Whatever the tokens are; live sessions make up the tokens instead."""
    if os.environ.get("BENCH_LIVE"):
        from tests.bench.live_steps import plan_the_servers_steps

        plan_the_servers_steps()
        return
    from predictor.text.tokenizer import TextTokenizer

    words, num_looked_up = made_up_words(), 0

    def token_bytes(self: TextTokenizer, token_id: int) -> bytes:
        nonlocal num_looked_up
        num_looked_up += 1
        return words[num_looked_up % NUM_WORDS]

    TextTokenizer.token_bytes = token_bytes  # type: ignore[method-assign]


def arrange(server: Any, shares: Shares, engines: list[EngineClient], num_fronts: int = 1) -> None:
    """A route that tells what this process did; `engines`: its one, once it is made."""

    def look() -> dict[str, Any]:
        num_unprepared = engines[0].stats().num_unprepared if engines else 1
        said = {"num_unprepared": num_unprepared, **asdict(shares)}
        return {"pid": os.getpid(), "num_fronts": num_fronts, **said}

    server.app.add_api_route("/bench/shares", look)


def main() -> None:
    shape, device, *flags = sys.argv[1:]
    settings = load_settings([f"--model_dir={CHECKPOINT}", *flags], {})
    sys.argv[1:] = []  # KServe parses them while it is imported
    configure_logging(settings.log_format, settings.log_level)
    if (settings.num_front_processes or 1) > 1:
        serve_as_pod(shape, device, settings)
        return
    stand_in_for_codecs()
    from predictor.engine import EngineClient
    from predictor.server import build_server
    from predictor.service import engines, loading
    from tests.bench.http_engine import bench_engine, bench_process, forced

    logging.getLogger("predictor.server").addHandler(Announcer())
    shares, clients = Shares(), list[EngineClient]()
    speak_made_up_words()

    def make_engine(
        settings: Settings, folder: Path, on_step: loading.Observer, on_lost: loading.Lost
    ) -> loading.MadeEngine:
        def observe(step: Any) -> None:
            shares.add(step)
            on_step(step)

        options = forced(engines.engine_options(settings))
        make = bench_process if engines.has_own_process(settings) else bench_engine
        client = EngineClient([make(shape, device, options, observe)])
        clients.append(client)
        return loading.MadeEngine(client, client.cores[0].device, "auto")

    server = build_server(
        settings, loading=loading.Loading(settings, make_engine, has_real_weights=False)
    )
    arrange(server, shares, clients)
    server.start()


def serve_as_pod(shape: str, device: str, settings: Settings) -> None:
    """Several fronts, each in a process of its own, before the benchmark's engine in another."""
    from predictor.engine import EngineSpec
    from predictor.pod import Parts, Pod
    from predictor.service.engines import engine_options
    from tests.bench.http_engine import forced

    def specs(settings: Settings, _: Path) -> list[EngineSpec]:
        options = forced(engine_options(settings))
        return [EngineSpec(Path(shape), device, "auto", options, log_level=settings.log_level)]

    logging.getLogger("predictor.pod").addHandler(Announcer())
    pod = Pod(settings, Parts("tests.bench.http_front", "tests.bench.http_worker", specs))
    print("engine", pod.engines[0], flush=True)
    pod.run()


if __name__ == "__main__":
    main()
