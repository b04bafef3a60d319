"""A load that stays the same: so many requests in flight, counted between two moments."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.bench.load import TOKENS_PER_AUDIO_S, Shares, quantiles


@dataclass(frozen=True)
class Load:
    """Clips of one length; `in_flight` of them at any moment."""

    in_flight: int
    duration_s: float
    route: str = (
        ""  # "openai" (multipart), "v1" (the bare file), "v2" (binary); "": the engine alone
    )
    media: str = "wav"

    @property
    def name(self) -> str:
        parts = [f"{self.in_flight} x {self.duration_s:g} s", self.route]
        return " ".join(p for p in [*parts, self.media if self.media != "wav" else ""] if p)


@dataclass(frozen=True)
class Window:
    """What counts is between `begin_s` and `end_s` of the monotonic clock, the same everywhere."""

    start_s: float
    begin_s: float
    end_s: float

    @staticmethod
    def from_now(warm_s: float, window_s: float, delay_s: float = 0.0) -> Window:
        start_s = time.monotonic() + delay_s
        return Window(start_s, start_s + warm_s, start_s + warm_s + window_s)


@dataclass
class Answers:
    """When each answer inside the window began to come and was whole, in seconds."""

    first_s: list[float] = field(default_factory=list)
    last_s: list[float] = field(default_factory=list)
    num_all: int = 0  # outside the window too


async def closed_loop(
    ask: Callable[[int], Awaitable[float]], in_flight: int, window: Window
) -> Answers:
    """`ask` over and over from `in_flight` tasks; it returns the seconds to its first token.

    The tasks start spread over the time before the window, so that answers do not come in waves.
    """
    answers = Answers()
    warm_s = window.begin_s - window.start_s

    async def client(index: int) -> None:
        offset_s = 0.5 * warm_s * index / in_flight
        await asyncio.sleep(max(0.0, window.start_s + offset_s - time.monotonic()))
        began_s = time.monotonic()
        while began_s < window.end_s or not answers.num_all:
            first_s = await ask(index)
            answers.num_all += 1
            ended_s = time.monotonic()
            if window.begin_s <= ended_s < window.end_s:
                answers.first_s.append(first_s)
                answers.last_s.append(ended_s - began_s)
            began_s = ended_s

    await asyncio.gather(*(client(i) for i in range(in_flight)))
    return answers


def row(load: Load, answers: Answers, shares: Shares, window_s: float) -> dict[str, Any]:
    """One row of the result.

    Clips that began together end together, and a window has one wave of answers more or less than
    its share: so what counts is the tokens that were made in it, of which each clip has as many.
    """
    num = len(answers.last_s)
    made = shares.num_new_tokens / math.ceil(load.duration_s * TOKENS_PER_AUDIO_S)
    return {
        "value": made * load.duration_s / window_s,
        "unit": "RTFx",
        "answered_rtfx": num * load.duration_s / window_s,
        "num_answers": num,
        "num_all_answers": answers.num_all,
        "tokens_per_s": shares.num_new_tokens / window_s,
        "latency": quantiles(answers.last_s) if num else None,
        "window_s": window_s,
        **shares.of(window_s),
    }


def difference(before: Shares, after: Shares) -> Shares:
    """What the engine did between two looks at its counters."""
    return Shares(
        seconds={k: after.seconds[k] - before.seconds[k] for k in after.seconds},
        steps={k: after.steps[k] - before.steps[k] for k in after.steps},
        num_new_tokens=after.num_new_tokens - before.num_new_tokens,
        device_s={k: v - before.device_s.get(k, 0.0) for k, v in after.device_s.items()},
    )
