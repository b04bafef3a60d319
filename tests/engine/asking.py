"""What the tests ask an engine, and waiting for what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from predictor.engine import EngineClient
from predictor.engine.options import EngineOptions
from predictor.engine.stream import TokenStream
from predictor.types import EngineRequest, TokenChunk
from tests.engine.faulty import Gate
from tests.model.checkpoints import AUDIO_END, AUDIO_START, clip

# Random weights fall into loops that the repetition guard would end.
OPTIONS = EngineOptions(max_num_seqs=4, max_model_len=640, max_repeats=10_000)


@dataclass(frozen=True)
class Known:
    """A request and what transformers' `generate` answers it with, alone."""

    request: EngineRequest
    tokens: tuple[int, ...]


def pool() -> list[EngineRequest]:
    """Requests of all kinds: tiny and long clips, short and long prompts, one to sixty tokens."""
    kinds = [  # seconds of audio, tokens before it, most new tokens
        (1.0, 3, 12), (30.0, 5, 20), (0.2, 1, 30), (7.99, 40, 1), (8.0, 4, 60), (2.5, 130, 25),
        (12.3, 2, 40), (1.0, 3, 5), (16.01, 9, 16),
    ]  # fmt: skip
    return [
        EngineRequest(
            request_id=f"r{i}",
            samples=clip(duration_s, seed=i),
            tokens_before=(*((7 * i + j) % 200 for j in range(num_before - 1)), AUDIO_START),
            tokens_after=(AUDIO_END, *range(i + 1)),
            max_new_tokens=max_new_tokens,
        )
        for i, (duration_s, num_before, max_new_tokens) in enumerate(kinds)
    ]


def renamed(known: Known, request_id: str) -> EngineRequest:
    return replace(known.request, request_id=request_id)


async def chunks_of(stream: TokenStream) -> list[TokenChunk]:
    return [chunk async for chunk in stream]


async def tokens_of(stream: TokenStream) -> tuple[int, ...]:
    return tuple([token async for chunk in stream for token in chunk.token_ids])


async def reached(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.reached.wait, 30)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds; the test's time limit ends it otherwise."""
    while not condition():
        await asyncio.sleep(0)


def is_idle(engine: EngineClient) -> bool:
    stats = engine.stats()
    return stats.num_running == stats.num_waiting == 0
