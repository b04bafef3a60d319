"""The engine that the HTTP benchmark measures: random weights, or no weights and no device at all.

    python -m tests.bench.http_engine '{"shape": "1.7B", ...}'      (the same loads, without HTTP)

`paced` is a runner that only waits, as long as a device would, `instant` one that does not even
wait: what is left is what the host does.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from predictor.engine import CoreProcess, EngineClient, EngineCore, EngineSpec, RemoteCore
from predictor.engine.options import EngineOptions, StepStats
from predictor.engine.pages import PAGE_TOKENS
from predictor.engine.protocol import StepOutput
from predictor.engine.sequence import Batch
from tests.bench.host import InstantRunner
from tests.bench.http_alone import alone_row, wait_until_prepared
from tests.bench.http_load import Load, Window, closed_loop, difference, row
from tests.bench.load import TOKENS_PER_AUDIO_S, Clips, Shares, one, options, without_end

PACED_STEP_S = 0.004  # of a device, for each token
PACED_RTFX = 8000.0  # of its encoder and prefill
PACED_STEPS = 4  # tokens between two looks, as the graphs run
KEPT_PAGES = 6  # of a live utterance between its steps: three closed windows and the prompt
TOKENIZER_IDS = 1308  # of the embedded checkpoint, whose tokenizer writes the prompts


class PacedRunner(InstantRunner):
    """Takes a device's time and none of the host's."""

    def __init__(self) -> None:
        super().__init__(PACED_STEPS)

    def prefill(self, sequences: Batch) -> StepOutput:
        time.sleep(sum(s.audio_s for s in sequences) / PACED_RTFX)
        return super().prefill(sequences)

    def decode(self, sequences: Batch) -> StepOutput:
        time.sleep(PACED_STEP_S * PACED_STEPS)
        return super().decode(sequences)


def forced(engine_options: EngineOptions) -> EngineOptions:
    """The same bounds, but every answer has exactly TOKENS_PER_AUDIO_S and no loop ends one.

    BENCH_MAX_PREFILL_TOKENS: what a prefill step may hold instead.
    """
    most = int(os.environ.get("BENCH_MAX_PREFILL_TOKENS", engine_options.max_prefill_tokens))
    return replace(
        engine_options,
        max_prefill_tokens=most,
        max_tokens_per_audio_s=TOKENS_PER_AUDIO_S,
        min_token_cap=1,
        max_repeats=1_000_000,
    )


def bench_engine(
    shape: str, device: str, settings: EngineOptions, on_step: Callable[[StepStats], None]
) -> EngineCore:
    """An engine with random weights of `shape`, made on the device; or `paced`, or `instant`."""
    if shape == "paced":
        return EngineCore(PacedRunner(), settings, on_step)
    if shape == "instant":
        return EngineCore(InstantRunner(PACED_STEPS), settings, on_step)
    import torch

    from predictor.engine.start.build import choose_device, make_runner
    from predictor.model.precision import choose_precision
    from tests.bench.shapes import SHAPES, random_model

    where = choose_device(device)
    config = SHAPES[shape]
    text = replace(config.text, vocab_size=max(TOKENIZER_IDS, config.text.vocab_size))
    with torch.inference_mode():
        model = random_model(
            replace(config, text=text), where, choose_precision("auto", where).dtype
        )
    if where.type == "cpu":
        torch.set_num_threads(max(1, min(8, (os.cpu_count() or 1) // 2)))
    per_slot = -(-settings.max_model_len // PAGE_TOKENS)
    runner = make_runner(
        model,
        num_slots=settings.max_num_seqs,
        num_pages=per_slot * settings.max_num_seqs + KEPT_PAGES * settings.max_kept_sequences,
        max_model_len=settings.max_model_len,
        max_prefill_audio_s=settings.max_prefill_audio_s,
        max_prefill_tokens=settings.max_prefill_tokens,
    )
    without_end(runner)
    return EngineCore(runner, settings, on_step, device=str(where))


def bench_process(
    shape: str,
    device: str,
    settings: EngineOptions,
    on_step: Callable[[StepStats], None],
    log_level: str = "info",
) -> RemoteCore:
    """The same engine in a process of its own."""
    spec = EngineSpec(Path(shape), device, "auto", settings, log_level=log_level)
    process = CoreProcess(worker="tests.bench.http_worker")
    process.load(spec)
    return RemoteCore(process.address, settings, on_step, process)


async def _measure(
    engine: EngineClient, shares: Shares, loads: list[Load], task: argparse.Namespace
) -> dict[str, Any]:
    """The rows of `loads`, and one clip alone."""
    warm_s, window_s = task.warm_s, task.window_s
    clips = Clips(TOKENIZER_IDS)
    rows: dict[str, Any] = {}

    async def ask(duration_s: float) -> float:
        return (await one(engine, clips.request(duration_s))).first_token_s

    for load in loads:
        window = Window.from_now(warm_s, window_s)
        loop = asyncio.create_task(
            closed_loop(lambda _, d=load.duration_s: ask(d), load.in_flight, window)
        )
        looks = []
        for moment_s in (window.begin_s, window.end_s):
            await asyncio.sleep(max(0.0, moment_s - time.monotonic()))
            looks.append(copy.deepcopy(shares))
        rows[load.name] = row(load, await loop, difference(*looks), window_s)
    prepared_after_s = await asyncio.to_thread(
        wait_until_prepared, lambda: engine.stats().num_unprepared
    )
    timings = [await one(engine, clips.request(task.alone_s)) for _ in range(task.num_alone + 2)]
    first_s, last_s = zip(*((t.first_token_s, t.last_token_s) for t in timings[2:]), strict=True)
    return rows | {"one clip": alone_row(first_s, last_s, prepared_after_s)}


def main() -> None:
    task = argparse.Namespace(**json.loads(sys.argv[1]))
    shares = Shares()
    settings = forced(options(max_num_seqs=task.max_num_seqs))
    make = bench_process if task.own else bench_engine
    engine = EngineClient([make(task.shape, task.device, settings, shares.add)])
    engine.start()
    try:
        loads = [Load(**load) for load in task.loads]
        rows = asyncio.run(_measure(engine, shares, loads, task))
    finally:
        engine.stop()
    print(json.dumps({"rows": rows, "options": asdict(settings)}))


if __name__ == "__main__":
    main()
