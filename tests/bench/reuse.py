"""What the cache is used for more than once: drafts, shared contexts, and sequences kept alive."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.engine import EngineClient
from predictor.engine.start.build import READY_PREFILL_S, READY_SEQUENCES
from predictor.types import SAMPLE_RATE_HZ, EngineRequest, ExtendRequest
from tests.bench.load import TOKENS_PER_AUDIO_S, all_at_once, one, quantiles

if TYPE_CHECKING:
    from predictor.engine.runner import TorchRunner
    from tests.bench.engine_bench import Bench

CONTEXT_TOKENS = 512
STEP_S = 0.5
NEW_TOKENS = 4  # decoded in each step; all before them are forced


def draft(bench: Bench, runner: TorchRunner, duration_s: float, repeats: int) -> dict[str, Any]:
    """One clip at a time whose draft is its answer."""
    assert bench.clips is not None
    request = bench.clips.request(duration_s)

    async def run() -> tuple[list[float], int]:
        with bench.engine(runner) as engine:
            tokens = [t async for chunk in engine.submit(request) for t in chunk.token_ids]
            times, accepted = [], 0
            for i in range(repeats + 2):
                again = replace(request, request_id=f"draft {i}", draft=tuple(tokens))
                began = time.perf_counter()
                async for chunk in engine.submit(again):
                    last = chunk
                times.append(time.perf_counter() - began)
                accepted = last.num_draft_accepted
            return times[2:], accepted

    times, accepted = asyncio.run(run())
    return {
        "value": 1e3 * statistics.median(times),
        "unit": "ms",
        "num_accepted": accepted,
        "num_tokens": request.max_new_tokens,
    }


def context(bench: Bench, duration_s: float, num_clips: int) -> dict[str, Any]:
    """Throughput with the same context before every clip, as a share of that without any."""
    assert bench.clips is not None
    clips, shared = bench.clips, tuple(i % 250 for i in range(CONTEXT_TOKENS))
    max_length = 768 + CONTEXT_TOKENS
    runner = bench.graph_runner(slots=8 if bench.small else 256, max_length=max_length)
    while runner.idle():
        pass

    async def run(tokens: tuple[int, ...]) -> float:
        def request() -> EngineRequest:
            plain = clips.request(duration_s)
            return replace(plain, tokens_before=(*tokens, *plain.tokens_before))

        with bench.engine(runner) as engine:
            await all_at_once(engine, [request() for _ in range(max(2, num_clips // 8))])
            wall_s = await all_at_once(engine, [request() for _ in range(num_clips)])
        return num_clips * duration_s / wall_s

    found: dict[tuple[int, ...], list[float]] = {(): [], shared: []}
    for tokens in (shared, (), shared, ()):
        found[tokens].append(asyncio.run(run(tokens)))
    plain, with_context = statistics.mean(found[()]), statistics.mean(found[shared])
    return {
        "value": with_context / plain,
        "unit": "of the throughput without",
        "rtfx": with_context,
        "rtfx_without": plain,
        "repeats": found[shared],
        "repeats_without": found[()],
    }


def steps(
    bench: Bench, runner: TorchRunner, num_sequences: int, wall_s: float, num_files: int = 0
) -> dict[str, Any]:
    """Kept sequences that each get half a second of audio every half second, up to 24 s long; with
    so many files of 30 s in flight beside."""
    assert bench.clips is not None
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(30 * SAMPLE_RATE_HZ, dtype=np.float32)
    chance = random.Random(0)
    times: list[float] = []

    async def session(engine: EngineClient, index: int, ends_s: float) -> None:
        said_s = STEP_S * chance.randint(1, 48)
        number, new = 0, noise[: int(said_s * SAMPLE_RATE_HZ)]
        due_s = time.perf_counter() + STEP_S * chance.random()
        while due_s < ends_s:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            request = ExtendRequest(
                request_id=f"{index}/{number}", sequence_id=str(index), samples=new,
                tokens_before=tuple(range(10, 23)), tokens_after=tuple(range(30, 39)),
                forced=tuple(range(50, 50 + int(said_s * TOKENS_PER_AUDIO_S))),
                max_new_tokens=NEW_TOKENS, starts_anew=number > 0 and said_s <= STEP_S,
            )  # fmt: skip
            async for _ in engine.extend(request):
                pass
            if number:  # the first one brings all before it
                times.append(time.perf_counter() - due_s)
            number, due_s = number + 1, due_s + STEP_S
            said_s = said_s + STEP_S if said_s < 24 else STEP_S
            first = int((said_s - STEP_S) * SAMPLE_RATE_HZ)
            new = noise[first : first + int(STEP_S * SAMPLE_RATE_HZ)]

    num_heard = 0

    async def file(engine: EngineClient, ends_s: float) -> None:
        nonlocal num_heard
        while time.perf_counter() < ends_s:
            await one(engine, bench.clips.request(2.0 if bench.small else 30.0))  # type: ignore[union-attr]
            num_heard += 1

    async def run() -> None:
        with bench.engine(runner) as engine:
            await one(engine, bench.clips.request(1.0))  # type: ignore[union-attr]
            ends_s = time.perf_counter() + wall_s
            await asyncio.gather(
                *(file(engine, ends_s) for _ in range(num_files)),
                *(session(engine, i, ends_s) for i in range(num_sequences)),
            )

    asyncio.run(run())
    return {
        "value": quantiles(times)["p95_ms"],
        "unit": "ms, p95",
        "num_sequences": num_sequences,
        "num_steps": len(times),
        "num_files": num_files,
        "files_answered": num_heard,
        **quantiles(times),
        "warm": quantiles(times[len(times) // 2 :]),  # graphs are made while it runs
        "slowest_ms": 1e3 * max(times),
    }


def under_load(
    bench: Bench, duration_s: float, num_in_flight: int, wall_s: float
) -> dict[str, Any]:
    """Throughput second by second of a replica that comes up with so many clips in flight: only the
    graphs made before readiness are there."""
    assert bench.clips is not None
    clips = bench.clips
    runner = bench.graph_runner()
    if bench.device.type == "cuda":
        runner.capture_up_to(READY_SEQUENCES, READY_PREFILL_S)
    ended_s: list[float] = []

    async def client(engine: EngineClient, until_s: float) -> None:
        while time.perf_counter() < until_s:
            await one(engine, clips.request(duration_s))
            ended_s.append(time.perf_counter())

    async def run() -> float:
        with bench.engine(runner) as engine:
            began_s = time.perf_counter()
            until_s = began_s + wall_s
            await asyncio.gather(*(client(engine, until_s) for _ in range(num_in_flight)))
        return began_s

    began_s = asyncio.run(run())
    seconds = [int(end_s - began_s) for end_s in ended_s]
    rtfx = [duration_s * seconds.count(second) for second in range(int(wall_s))]
    steady = statistics.median(rtfx[len(rtfx) // 2 :])
    reached = next(i for i in range(len(rtfx)) if min(rtfx[i:]) >= 0.85 * steady)
    return {"value": reached, "unit": "s to 85 %", "rtfx_of_each_second": rtfx, "steady": steady}
