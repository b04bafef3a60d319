"""Loads for the engine, through `EngineClient.submit`: waveforms to tokens, both in host memory."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.engine import EngineClient
from predictor.engine.options import EngineOptions, StepStats
from predictor.types import SAMPLE_RATE_HZ, EngineRequest, Samples

if TYPE_CHECKING:  # client processes need no torch
    from predictor.engine.runner import TorchRunner

TOKENS_PER_AUDIO_S = 3.5
POOL_S = 1200  # seconds of noise that clips are cut from, far more than a processor caches


class Clips:
    """Clips of noise, each a different stretch of one long recording."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        noise = self._rng.standard_normal(POOL_S * SAMPLE_RATE_HZ, dtype=np.float32)
        self._pool: Samples = 0.1 * noise
        self._vocab_size = vocab_size
        self._count = 0

    def request(self, duration_s: float) -> EngineRequest:
        """A clip with the prompt tokens and the answer's length that speech of it would have."""
        size = round(duration_s * SAMPLE_RATE_HZ)
        first = int(self._rng.integers(len(self._pool) - size))
        self._count += 1
        return EngineRequest(
            request_id=str(self._count),
            samples=self._pool[first : first + size],
            tokens_before=tuple(self._rng.integers(0, self._vocab_size // 2, 9).tolist()),
            tokens_after=tuple(self._rng.integers(0, self._vocab_size // 2, 6).tolist()),
            max_new_tokens=max(1, math.ceil(duration_s * TOKENS_PER_AUDIO_S)),
        )


def without_end(runner: TorchRunner) -> None:
    """Let every sequence run to its `max_new_tokens`: no token ends one."""
    runner._limits = replace(runner._limits, eos_token_ids=frozenset())


def options(**changes: Any) -> EngineOptions:
    """Bounds that no load here reaches; a loop of tokens ends nothing."""
    settings: dict[str, Any] = {
        "max_num_seqs": 256,
        "max_model_len": 768,
        "max_prefill_audio_s": 640.0,
        "max_prefill_tokens": 8192,
        "max_repeats": 1_000_000,
        "max_kept_sequences": 1000,
    }
    return EngineOptions(**(settings | changes))


@dataclass
class Shares:
    """Where the time went, from what the engine reports after each step."""

    seconds: dict[str, float] = field(default_factory=lambda: {"prefill": 0.0, "decode": 0.0})
    steps: dict[str, int] = field(default_factory=lambda: {"prefill": 0, "decode": 0})
    num_new_tokens: int = 0
    device_s: dict[str, float] = field(default_factory=dict)

    def add(self, step: StepStats) -> None:
        self.seconds[step.phase] += step.seconds
        self.steps[step.phase] += 1
        self.num_new_tokens += step.num_new_tokens
        for part, seconds in step.device_s:
            self.device_s[part] = self.device_s.get(part, 0.0) + seconds

    def begin(self) -> None:
        """Forget what was so far."""
        fresh = Shares()
        self.seconds, self.steps = fresh.seconds, fresh.steps
        self.num_new_tokens, self.device_s = 0, {}

    def of(self, wall_s: float) -> dict[str, Any]:
        """Shares of the wall time: of the device by part of the work, where it is known, or else
        of the engine's thread by phase; what is left is the host's own."""
        known = self.device_s or self.seconds
        shares = {part: seconds / wall_s for part, seconds in known.items()}
        return {
            "between_steps_share": max(0.0, 1 - sum(self.seconds.values()) / wall_s),
            "shares": shares | {"rest": max(0.0, 1 - sum(shares.values()))},
            "prefill_steps": self.steps["prefill"],
            "decode_looks": self.steps["decode"],
            "num_new_tokens": self.num_new_tokens,
        }


@dataclass(frozen=True)
class Timing:
    """One request's own times."""

    first_token_s: float
    last_token_s: float
    num_tokens: int


async def one(engine: EngineClient, request: EngineRequest) -> Timing:
    """Submit a request and follow it to its end; RuntimeError if it is cut short."""
    began = time.perf_counter()
    first_s, num_tokens = 0.0, 0
    async for chunk in engine.submit(request):
        num_tokens += len(chunk.token_ids)
        if not first_s:
            first_s = time.perf_counter() - began
    if num_tokens != request.max_new_tokens:
        raise RuntimeError(f"{num_tokens} tokens instead of {request.max_new_tokens}")
    return Timing(first_s, time.perf_counter() - began, num_tokens)


async def all_at_once(engine: EngineClient, requests: Sequence[EngineRequest]) -> float:
    """Seconds from the first submission to the last token of all."""
    began = time.perf_counter()
    await asyncio.gather(*(one(engine, request) for request in requests))
    return time.perf_counter() - began


async def steady(
    engine: EngineClient, clips: Clips, *, duration_s: float, concurrency: int, rounds: int
) -> list[Timing]:
    """`concurrency` clients, each sending its next clip when the last one is answered.

    They start spread over one latency, and each one's first answer is not counted.
    """
    alone_s = (await one(engine, clips.request(duration_s))).last_token_s

    async def client(index: int) -> list[Timing]:
        await asyncio.sleep(2 * alone_s * index / concurrency)
        return [await one(engine, clips.request(duration_s)) for _ in range(rounds + 1)]

    results = await asyncio.gather(*(client(i) for i in range(concurrency)))
    return [timing for timings in results for timing in timings[1:]]


async def full(
    engine: EngineClient,
    clips: Clips,
    shares: Shares,
    *,
    duration_s: float,
    concurrency: int,
    window_s: float,
) -> tuple[int, float]:
    """(answers, seconds) of a window in which `concurrency` clips are always in flight.

    It opens when as many as two rounds of them are answered; `shares` are of the window alone.
    """
    num_answers = 0
    opened, warm = asyncio.Event(), 2 * concurrency

    async def client() -> None:
        nonlocal num_answers
        while True:
            await one(engine, clips.request(duration_s))
            num_answers += 1
            if num_answers >= warm:
                opened.set()

    opening = asyncio.create_task(opened.wait())
    clients = [asyncio.create_task(client()) for _ in range(concurrency)]
    try:
        await asyncio.wait(
            [asyncio.create_task(opened.wait()), *clients], return_when="FIRST_COMPLETED"
        )
        before, began = num_answers, time.perf_counter()
        shares.begin()
        await asyncio.wait(clients, timeout=window_s, return_when="FIRST_EXCEPTION")
        for failed in (c for c in clients if c.done()):
            failed.result()
        return num_answers - before, time.perf_counter() - began
    finally:
        for task in (opening, *clients):
            task.cancel()
        await asyncio.gather(opening, *clients, return_exceptions=True)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p95 in milliseconds."""
    if len(values) < 2:
        return {"p50_ms": 1e3 * values[0], "p95_ms": 1e3 * values[0]}
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50_ms": 1e3 * cuts[9], "p95_ms": 1e3 * cuts[18]}
