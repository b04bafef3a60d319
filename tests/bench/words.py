"""What times of words cost: the same load with an aligner beside the engine, and without.

    python -m tests.bench.words --output tests/bench/results/words-GPU.json
    python -m tests.bench.words --aligner_precision auto,fp8 --gather_ms 0,50 --budget_s 540
    python -m tests.bench.words --shapes tiny --device cpu --window_s 2 --warm_s 1    (a smoke test)

Random weights of the true shapes. The engine and the aligner have a process each on the same
device, as in a server; each answer of the engine is followed by a request for the times of as many
words as such an answer has. Without HTTP: decoding and JSON cost the host, not the device. Several
aligners are measured one after another beside the same engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from predictor.align.client import AlignerClient
from predictor.align.process import AlignerProcess
from predictor.align.wire import AlignerSpec
from predictor.engine import EngineClient
from predictor.service.aligner import CUDA_GATHER_S, MAX_BATCH_S, MAX_CUDA_BATCH_S, MAX_WAITING
from predictor.settings.parts.model import PRECISIONS
from predictor.text.tokenizer import TextTokenizer
from tests.bench.checkpoint import write_checkpoint
from tests.bench.environment import describe
from tests.bench.http import rounded
from tests.bench.http_engine import TOKENIZER_IDS, bench_process, forced
from tests.bench.http_load import Answers, Load, Window, closed_loop
from tests.bench.load import TOKENS_PER_AUDIO_S, Clips, Shares, one, options, quantiles

WORDS_PER_S = 2.7  # of English speech; with 1.3 tokens each, TOKENS_PER_AUDIO_S
COMPOUNDS = 0.3  # share of words that are two tokens
NUM_WORDS = 2048
GOAL = 0.12  # of throughput, at most
METHOD = (
    "random weights of the recogniser and of Qwen3-ForcedAligner-0.6B (24 encoder layers, 28 text "
    "layers, 5,000 classes), a process each on one device; closed loop of so many clips in flight, "
    "warmed up, then counted in a window; with words: each answer is followed by the times of "
    f"{WORDS_PER_S} words a second; plain, words, plain, words, and medians of each"
)


def spoken_words(folder: Path) -> list[str]:
    """Words of letters, of about as many tokens each as English ones are to the real tokenizer."""
    tokenizer, rng = TextTokenizer.load(folder), random.Random(0)
    single: list[str] = []
    for token_id in range(min(200_000, 40 * NUM_WORDS)):
        text = tokenizer.token_bytes(token_id).decode(errors="replace")
        is_word = text.isascii() and text.isalpha() and len(text) > 1
        if is_word and len(tokenizer.encode_plain(text)) == 1:
            single.append(text)
        if len(single) == NUM_WORDS:
            break
    return [
        rng.choice(single) + (rng.choice(single) if rng.random() < COMPOUNDS else "")
        for _ in range(NUM_WORDS)
    ]


class Bench:
    """An engine, an aligner, and what is measured of them."""

    def __init__(
        self, engine: EngineClient, aligner: AlignerClient, words: list[str], seconds: Window
    ) -> None:
        """`seconds`: how long is warmed up, and counted."""
        self._engine = engine
        self._aligner = aligner
        self._words = words
        self._warm_s = seconds.begin_s - seconds.start_s
        self._window_s = seconds.end_s - seconds.begin_s
        self._clips = Clips(TOKENIZER_IDS)
        self._rng = random.Random(1)

    @property
    def loop_s(self) -> float:
        """What one load for one window takes."""
        return self._warm_s + self._window_s

    async def plain(self, duration_s: float) -> float:
        """One clip to its last token; seconds to the first."""
        return (await one(self._engine, self._clips.request(duration_s))).first_token_s

    async def with_words(self, duration_s: float) -> float:
        """The same, then the times of its words."""
        request = self._clips.request(duration_s)
        first_s = (await one(self._engine, request)).first_token_s
        await self._aligner.times(request.samples, self._said(duration_s))
        return first_s

    async def words_alone(self, duration_s: float) -> float:
        """The times alone."""
        samples = self._clips.request(duration_s).samples
        await self._aligner.times(samples, self._said(duration_s))
        return 0.0

    def _said(self, duration_s: float) -> list[str]:
        return self._rng.choices(self._words, k=max(1, round(WORDS_PER_S * duration_s)))

    async def loop(self, load: Load, ask: Callable[[float], Awaitable[float]]) -> dict[str, Any]:
        """One load for one window."""
        window = Window.from_now(self._warm_s, self._window_s)
        answers: Answers = await closed_loop(lambda _: ask(load.duration_s), load.in_flight, window)
        num = len(answers.last_s)
        return {
            "rtfx": num * load.duration_s / self._window_s,
            "num_answers": num,
            "latency": quantiles(answers.last_s) if num else None,
        }

    async def row(self, load: Load) -> dict[str, Any]:
        """With and without in turns, so that a device that slows down slows both."""
        rows: dict[str, list[dict[str, Any]]] = {"plain": [], "words": []}
        for name in ("plain", "words", "plain", "words"):
            ask = self.plain if name == "plain" else self.with_words
            rows[name].append(await self.loop(load, ask))
        plain, words = (statistics.median(r["rtfx"] for r in rows[n]) for n in ("plain", "words"))
        return {
            "value": 1 - words / plain if plain else None,
            "unit": "throughput lost",
            "goal": GOAL,
            "plain_rtfx": plain,
            "words_rtfx": words,
            "windows": rows,
        }


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the aligner."""

    precision: str  # as the setting has it
    gather_ms: float

    @property
    def suffix(self) -> str:
        """Of its rows' names; nothing for what serves by default."""
        parts = [f"aligner {self.precision}"] if self.precision != "auto" else []
        if self.gather_ms != 1000 * CUDA_GATHER_S:
            parts.append(f"gathering {self.gather_ms:g} ms")
        return "".join(f", {part}" for part in parts)


def variants(arguments: argparse.Namespace) -> list[Variant]:
    """All that are asked for."""
    return [
        Variant(precision, float(gather_ms))
        for gather_ms in str(arguments.gather_ms).split(",")
        for precision in arguments.aligner_precision.split(",")
    ]


@contextmanager
def aligner(folder: Path, device: str, variant: Variant) -> Iterator[AlignerClient]:
    """A loaded aligner in a process of its own."""
    process = AlignerProcess()
    spec = AlignerSpec(
        folder=str(folder),
        device=device,
        precision=PRECISIONS[variant.precision],
        num_threads=None if device != "cpu" else 1,
        max_batch_s=MAX_BATCH_S if device == "cpu" else MAX_CUDA_BATCH_S,
        max_waiting=MAX_WAITING,
        gather_s=variant.gather_ms / 1000,
        log_format="text",
        log_level="warning",
    )
    process.spawn(spec)
    try:
        process.wait_loaded()
        yield AlignerClient(process.address)
    finally:
        process.stop()


@contextmanager
def engine(shape: str, device: str, num_slots: int) -> Iterator[EngineClient]:
    """An engine in a process of its own."""
    settings = forced(options(max_num_seqs=num_slots))
    client = EngineClient([bench_process(shape, device, settings, Shares().add, "warning")])
    client.start()
    try:
        yield client
    finally:
        client.stop()


def run(arguments: argparse.Namespace, result: dict[str, Any], save: Callable[[], None]) -> None:
    """All rows of all shapes."""
    deadline = time.monotonic() + arguments.budget_s
    is_small = arguments.shapes == "tiny"
    loads = [Load(4, 1.0)] if is_small else [Load(256, 30.0), Load(256, 10.0), Load(64, 10.0)]
    window = Window(0.0, arguments.warm_s, arguments.warm_s + arguments.window_s)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_checkpoint(
            Path(temporary) / "aligner", "tiny aligner" if is_small else "aligner"
        )
        words = spoken_words(folder)
        tokenizer = TextTokenizer.load(folder)
        mean = statistics.mean(len(tokenizer.encode_plain(word)) for word in words)
        result["words"] = {"a_second": WORDS_PER_S, "tokens_each": mean}
        for shape in arguments.shapes.split(","):
            # The engine first: its cache takes what is free, but for the aligner's part.
            with engine(shape, arguments.device, 4 if is_small else 256) as client:
                for variant in variants(arguments):
                    with aligner(folder, arguments.device, variant) as times:
                        bench = Bench(client, times, words, window)
                        measure(bench, (shape, variant), loads, deadline, result["rows"], save)


def measure(
    bench: Bench,
    what: tuple[str, Variant],
    loads: list[Load],
    deadline: float,
    rows: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """The rows of one shape and variant."""
    shape, variant = what
    for load in loads:
        name = f"{shape} {load.name}{variant.suffix}"
        if deadline - time.monotonic() < 4 * bench.loop_s:
            rows[name] = {"skipped": "out of time"}
            continue
        rows[name] = asyncio.run(bench.row(load))
        save()
    alone = asyncio.run(bench.loop(loads[0], bench.words_alone))
    name = f"{shape} aligner alone, {loads[0].name}{variant.suffix}"
    rows[name] = {"value": alone["rtfx"], "unit": "RTFx", **alone}
    save()


def table(result: dict[str, Any]) -> str:
    lines = []
    for name, row in result["rows"].items():
        if "plain_rtfx" in row:
            lines.append(
                f"{name:<48}{row['plain_rtfx']:>8.4g} RTFx, with words {row['words_rtfx']:>8.4g}: "
                f"{row['value']:.1%} lost"
            )
        else:
            lines.append(f"{name:<48}{row.get('value', row.get('skipped'))}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="1.7B", help="1.7B, 0.6B, tiny; comma-separated")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--aligner_precision", default="auto", help=f"of {', '.join(PRECISIONS)}; comma-separated"
    )
    parser.add_argument(
        "--gather_ms",
        default=f"{1000 * CUDA_GATHER_S:g}",
        help="from one batch's start to the next one's; comma-separated",
    )
    parser.add_argument("--window_s", type=float, default=5.0)
    parser.add_argument("--warm_s", type=float, default=3.0)
    parser.add_argument("--budget_s", type=float, default=300.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "environment": describe(),
        "tokens_per_audio_s": TOKENS_PER_AUDIO_S,
        "method": METHOD,
        "rows": {},
    }

    def save() -> None:
        if arguments.output is not None:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(rounded(result), indent=1) + "\n")
        name, row = list(result["rows"].items())[-1]
        print(f"{name}: {json.dumps(rounded(row))[:400]}", file=sys.stderr, flush=True)

    run(arguments, result, save)
    print(table(result), flush=True)


if __name__ == "__main__":
    main()
