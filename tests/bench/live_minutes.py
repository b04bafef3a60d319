"""What a step of live speech costs the device from minute 1 to minute 60, minute by minute.

    python -m tests.bench.live_minutes --shape 1.7B --output minutes.json   (on the machine with it)

A few sessions whose talk never pauses, so that each is cut at 24 s, and which began evenly spread
over one utterance. Time is compressed: all are given audio up to their next step, these steps run
together, and so on; each minute has the same steps. Text is planned (see `live_steps`), weights are
random. Beside it the scheme of the model's authors, whose every step of 2 s takes all audio so far
and all text but the last tokens as given: one stream, at some ages. Milliseconds are of the device,
by its own events; without a device they are the engine's thread's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from predictor.engine import EngineClient
from predictor.engine.options import StepStats
from predictor.errors import AsrError
from predictor.live.options import FRAME_SAMPLES, LiveOptions, SessionConfig
from predictor.live.session import LiveSession
from predictor.live.steps import Step
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import SAMPLE_RATE_HZ, EngineRequest, Samples
from tests.bench.environment import describe
from tests.bench.http_engine import bench_engine, forced
from tests.bench.live_steps import CHECKPOINT, TOKENS_PER_S, PlannedSteps
from tests.bench.load import one, options

EVERY = 7  # about 1 / DISAGREE
OFFICIAL_STEP_S = 2.0
TAKEN_BACK = 5  # tokens of the text before that each of its steps decodes anew
AGES_S = (10.0, 60.0, 300.0, 600.0, 1200.0, 1800.0, 2700.0, 3600.0)
NOISE: Samples = np.random.default_rng(0).normal(0, 0.1, FRAME_SAMPLES * 997).astype(np.float32)

Json = dict[str, Any]


@dataclass
class Spent:
    """Seconds of the device, as the engine reports them."""

    seconds: float = 0.0

    def add(self, step: StepStats) -> None:
        self.seconds += sum(s for _, s in step.device_s) if step.device_s else step.seconds

    def take(self) -> float:
        spent, self.seconds = self.seconds, 0.0
        return spent


class EvenSteps(PlannedSteps):
    """Of which one in seven disagrees with its draft, in turn among sessions: chance would make
    minutes differ by some percent."""

    def __init__(self, engine: EngineClient, number: int) -> None:
        super().__init__(engine.extend, engine.close)
        self._number = number

    def _disagrees(self) -> bool:
        return (self._num_steps + 2 * self._number) % EVERY == 0


class Talker:
    """A session to which somebody speaks without a pause."""

    def __init__(self, engine: EngineClient, number: int, step_s: float) -> None:
        tokenizer = TextTokenizer.load(CHECKPOINT)
        config = SessionConfig(step_s=step_s)
        self.session = LiveSession(PromptBuilder(tokenizer, 64), tokenizer, LiveOptions(), config)
        self.steps = EvenSteps(engine, number)
        self._frame = 31 * number

    def speak(self) -> Step:
        """Until the session asks for its next step."""
        while True:
            self._frame = (self._frame + 1) % (len(NOISE) // FRAME_SAMPLES)
            frame = NOISE[self._frame * FRAME_SAMPLES :][:FRAME_SAMPLES]
            if (step := self.session.hear(frame, 1.0)) is not None:
                return step

    async def step(self) -> None:
        """Speak, and have the step run."""
        self.session.take(await self.steps.step(self.speak()))
        self.session.take_events()


async def minutes(
    engine: EngineClient, spent: Spent, asked: argparse.Namespace
) -> tuple[list[Json], float]:
    """A row for each minute; seconds that an utterance is cut at."""
    utterance_s = LiveOptions().max_utterance_s
    talkers = [Talker(engine, number, asked.step_s) for number in range(asked.streams)]
    first = talkers[0].session
    # The others begin while the first one's first utterances run.
    for number, _ in enumerate(talkers):
        while first.now_s < utterance_s * (1 + number / len(talkers)):
            await asyncio.gather(*(talker.step() for talker in talkers[: number + 1]))
    rows: list[Json] = []
    began_s, ramp_s = time.monotonic(), first.now_s
    while len(rows) < asked.minutes and time.monotonic() - began_s < asked.budget_s:
        spent.take()
        minute_s, num_steps = time.monotonic(), 0
        while first.now_s - ramp_s < 60 * (len(rows) + 1):
            await asyncio.gather(*(talker.step() for talker in talkers))
            num_steps += len(talkers)
        wall_s = time.monotonic() - minute_s
        rows.append(
            {
                "minute": len(rows) + 1,
                "steps": num_steps,
                "device_ms_a_step": round(1e3 * spent.take() / num_steps, 4),
                "wall_ms_a_step": round(1e3 * wall_s / num_steps, 4),
            }
        )
        if len(rows) in (1, 2) or len(rows) % 10 == 0:
            print(json.dumps(rows[-1]), flush=True)
    for talker in talkers:
        talker.steps.close()
    return rows, utterance_s


def flatness(rows: Sequence[Json]) -> Json:
    """How far minutes are apart, in percent."""
    costs = [row["device_ms_a_step"] for row in rows]
    middle = statistics.median(costs)
    return {
        "median_ms": middle,
        "largest_deviation_percent": round(100 * max(abs(c / middle - 1) for c in costs), 2),
        "last_over_first_percent": round(100 * (costs[-1] / costs[0] - 1), 2),
        "trend_percent": round(100 * trend(costs) * (len(costs) - 1) / middle, 2),
    }


def trend(costs: Sequence[float]) -> float:
    """What a minute adds, by least squares: single minutes scatter by whose utterances end."""
    if len(costs) < 2:
        return 0.0
    return statistics.linear_regression(range(len(costs)), costs).slope


async def official(engine: EngineClient, spent: Spent, ages_s: Sequence[float]) -> list[Json]:
    """One step of the authors' scheme at each age of the stream; the median of three."""
    tokenizer = TextTokenizer.load(CHECKPOINT)
    prompt = PromptBuilder(tokenizer, 64).build()
    plan = PlannedSteps.plan
    rows: list[Json] = []
    for age_s in ages_s:
        num_known = max(0, int((age_s - OFFICIAL_STEP_S) * TOKENS_PER_S) - TAKEN_BACK)
        num_new = int(OFFICIAL_STEP_S * TOKENS_PER_S) + TAKEN_BACK
        samples = np.resize(NOISE, round(age_s * SAMPLE_RATE_HZ))
        costs = []
        try:
            for number in range(4):  # the first one warms up
                request = EngineRequest(
                    request_id=f"{age_s}:{number}", samples=samples,
                    tokens_before=prompt.tokens_before, tokens_after=prompt.tokens_after,
                    max_new_tokens=num_new,
                    forced=tuple(plan[i % len(plan)] for i in range(num_known)),
                )  # fmt: skip
                spent.take()
                await one(engine, request)
                costs.append(1e3 * spent.take())
        except (
            AsrError,
            RuntimeError,
        ) as error:  # what one age needs may be more than the device has
            rows.append({"age_s": age_s, "error": repr(error)[:200]})
            print(json.dumps(rows[-1]), flush=True)
            return rows
        rows.append({"age_s": age_s, "device_ms_a_step": round(statistics.median(costs[1:]), 3)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def running(asked: argparse.Namespace, num_slots: int, most_s: float) -> tuple[EngineClient, Spent]:
    """An engine in this process for utterances up to `most_s`."""
    spent = Spent()
    most_tokens = 128 + int(most_s * (13 + TOKENS_PER_S + 1))
    settings = options(
        max_num_seqs=num_slots, max_model_len=most_tokens, max_kept_sequences=num_slots + 1,
        max_prefill_audio_s=max(640.0, most_s), max_kept_audio_s=1e6,
    )  # fmt: skip
    engine = EngineClient([bench_engine(asked.shape, asked.device, forced(settings), spent.add)])
    engine.start()
    time.sleep(asked.prepare_s)  # its graphs
    return engine, spent


def measured(asked: argparse.Namespace) -> Iterator[Json]:
    """Parts of the result, as they come."""
    engine, spent = running(asked, asked.streams, LiveOptions().max_utterance_s)
    try:
        rows, utterance_s = asyncio.run(minutes(engine, spent, asked))
    finally:
        engine.stop()
    yield {"cut_at_s": utterance_s, "flatness": flatness(rows), "minutes": rows}
    engine, spent = running(asked, 1, max(asked.ages_s))
    try:
        yield {"official": asyncio.run(official(engine, spent, asked.ages_s))}
    finally:
        engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="1.7B", help="1.7B, 0.6B or tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--step_s", type=float, default=0.5)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--ages_s", type=float, nargs="+", default=list(AGES_S))
    parser.add_argument("--prepare_s", type=float, default=12.0, help="for an engine's graphs")
    parser.add_argument("--budget_s", type=float, default=1e6, help="no minute begins after it")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    words = {name: str(value) for name, value in vars(asked).items() if name != "output"}
    result: Json = {"environment": describe(), "method": __doc__, "asked": words}
    for part in measured(asked):
        result |= part
        print(json.dumps(part.get("flatness", {})), flush=True)
        if asked.output:
            asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
