"""The standard rows of `bench`: speech of a fixed length through the engine alone, beside ours.

Ours were measured with random weights and answers forced to 3.5 tokens a second of audio; here the
checkpoint answers as it does, so the tokens a second stand beside the figure.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from predictor.types import SAMPLE_RATE_HZ, EngineRequest, Samples

if TYPE_CHECKING:
    from predictor.engine import EngineClient
    from predictor.text.prompt import Prompt

MANY: Final = 512  # requests at once, as in our own rows
_MAX_TOKENS_PER_S: Final = 8  # of audio: nobody speaks faster, a loop of tokens ends there
_NUM_ALONE: Final = 12  # clips of a row that sends one at a time, after one that warms up
_NUM_OFFSETS: Final = 64  # different clips of one length


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured: `name` is that of our own row, behind the model's size."""

    name: str
    clip_s: float
    at_once: int
    unit: str  # RTFx, or ms to the last token, or to the first


ROWS: Final = (
    Row("offline 30 s", 30.0, MANY, "RTFx"),
    Row("offline 10 s", 10.0, MANY, "RTFx"),
    Row("one 10 s clip", 10.0, 1, "ms"),
    Row("one 30 s clip, first token", 30.0, 1, "ms to the first token"),
)


class Speech:
    """Clips of any length, cut at different places from recordings laid end to end."""

    def __init__(self, recordings: Sequence[Samples]) -> None:
        self._all = np.concatenate(list(recordings))
        self._count = 0

    def clip(self, seconds: float) -> Samples:
        """`seconds` of speech; the next call begins elsewhere."""
        size = round(seconds * SAMPLE_RATE_HZ)
        first = (self._count % _NUM_OFFSETS) * (len(self._all) // _NUM_OFFSETS)
        self._count += 1
        return np.resize(np.roll(self._all, -first), size)


@dataclass(frozen=True, slots=True)
class _Done:
    first_token_s: float
    last_token_s: float
    num_tokens: int
    at_s: float  # time.monotonic() of the last token


async def measure(
    engine: EngineClient, prompt: Prompt, speech: Speech, row: Row, *, most: int, window_s: float
) -> dict[str, Any]:
    """One row; no more than `most` requests at once, counted for `window_s` after a warm-up."""
    request = _Requests(engine, prompt, speech, row.clip_s)
    if row.at_once == 1:
        timings = await _alone(request, window_s)
        first = row.unit == "ms to the first token"
        times = [t.first_token_s if first else t.last_token_s for t in timings]
        value, tokens, num = 1e3 * statistics.median(times), timings, 1
    else:
        num = min(row.at_once, most)
        value, tokens = await _throughput(request, num, row.clip_s, window_s)
    per_s = sum(t.num_tokens for t in tokens) / (row.clip_s * len(tokens))
    return {
        "name": row.name,
        "unit": row.unit,
        "value": round(value, 2),
        "at_once": num,
        "clips": len(tokens),
        "tokens_per_audio_s": round(per_s, 2),
    }


async def _alone(request: _Requests, window_s: float) -> list[_Done]:
    """One after another, for `window_s` at most, but two."""
    ended_s = (await request.one()).at_s + window_s
    done: list[_Done] = []
    while len(done) < 2 or (len(done) < _NUM_ALONE and time.monotonic() < ended_s):
        done.append(await request.one())
    return done


async def _throughput(
    request: _Requests, num: int, clip_s: float, window_s: float
) -> tuple[float, list[_Done]]:
    """Seconds of audio finished a second while `num` are always in flight."""
    done: list[_Done] = []
    is_over = False

    async def keep_one() -> None:
        while not is_over:
            done.append(await request.one())

    workers = [asyncio.create_task(keep_one()) for _ in range(num)]
    try:
        while len(done) < num:  # each place was used once: what follows is steady
            await asyncio.wait(workers, timeout=0.05)
            _raise_first(workers)
        began_s, before = time.monotonic(), len(done)
        while time.monotonic() - began_s < window_s or len(done) < before + num:
            await asyncio.wait(workers, timeout=0.05)
            _raise_first(workers)
        ended_s = time.monotonic()
    finally:
        is_over = True
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    counted = [each for each in done if began_s < each.at_s <= ended_s]
    return len(counted) * clip_s / (ended_s - began_s), counted


def _raise_first(workers: Sequence[asyncio.Task[None]]) -> None:
    for worker in workers:
        if worker.done():
            worker.result()


class _Requests:
    """Requests of one length, one after another."""

    def __init__(self, engine: EngineClient, prompt: Prompt, speech: Speech, clip_s: float) -> None:
        self._engine, self._prompt = engine, prompt
        self._max_new_tokens = round(clip_s * _MAX_TOKENS_PER_S)
        self._clips = [speech.clip(clip_s) for _ in range(_NUM_OFFSETS)]
        self._count = 0

    async def one(self) -> _Done:
        """Send one and follow it to its end."""
        self._count += 1
        request = EngineRequest(
            request_id=uuid.uuid4().hex,
            samples=self._clips[self._count % len(self._clips)],
            tokens_before=self._prompt.tokens_before,
            tokens_after=self._prompt.tokens_after,
            max_new_tokens=self._max_new_tokens,
            is_streamed=False,
        )
        began_s, first_s, num_tokens = time.monotonic(), 0.0, 0
        async for chunk in self._engine.submit(request):
            num_tokens += len(chunk.token_ids)
            first_s = first_s or time.monotonic() - began_s
        ended_s = time.monotonic()
        return _Done(first_s, ended_s - began_s, num_tokens, ended_s)


def ours(size: str | None) -> dict[str, Any]:
    """Our own figures for a model of this size: row -> value; and the card they are of."""
    report: dict[str, Any] = json.loads(
        files("predictor.cli").joinpath("our_figures.json").read_text(encoding="utf-8")
    )
    rows = {} if size is None else report["rows"].get(size, {})
    return {"gpu": report["gpu"], "method": report["method"], "rows": rows}


def table(rows: Sequence[dict[str, Any]], beside: dict[str, Any], size: str | None) -> str:
    """The rows for people, ours in the last column."""
    head = f"ours, {beside['gpu']}"
    lines = [f"{'':<28} {'measured':>10} {'tokens/s':>9}   {head}"]
    for row in rows:
        figure = beside["rows"].get(row["name"])
        other = f"{figure:,.0f}" if figure is not None else "-"
        line = f"{row['name']:<28} {row['value']:>10,.1f} {row['tokens_per_audio_s']:>9.1f}"
        lines.append(f"{line}   {other:>10}  {row['unit']}, {row['at_once']} at once")
    if size is None:
        lines.append("We have no figures of a model of this shape.")
    lines.append(f"Ours: {beside['method']}.")
    return "\n".join(lines) + "\n"
