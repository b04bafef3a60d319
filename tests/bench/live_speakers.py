"""Speakers of the live benchmark that ask an engine's process themselves, without a server.

    python -m tests.bench.live_speakers '{"address": ..., "streams": 125, ...}'

Several processes of them share the streams, as a server's fronts do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from predictor.engine import EngineClient, RemoteCore
from predictor.errors import AsrError
from predictor.live.steps import Step
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from tests.bench.live_steps import CHECKPOINT, TOKENS_PER_S, PlannedSteps
from tests.bench.load import options

RATE = 16_000


class Stream:
    """One speaker in real time, without detector and server: utterance after utterance."""

    def __init__(self, engine: EngineClient, task: argparse.Namespace, number: int) -> None:
        self._steps = PlannedSteps(engine.extend, engine.close)
        self._task = task
        self._random = random.Random(task.first + number)
        rng = np.random.default_rng(task.first + number)
        self._audio = rng.normal(0, 0.1, round((task.utterance_s + 1) * RATE)).astype(np.float32)
        self.lags: list[float] = []
        self.failed: list[str] = []

    async def run(self, prompt: Any, window: tuple[float, float]) -> None:
        """Speak until the window ends; what falls into it counts. The first utterance has run for
        a while when the stream begins, so that no two streams are in step."""
        task = self._task
        per_utterance = max(1, round(task.utterance_s / task.step_s))
        index, utterance = self._random.randrange(per_utterance), 1
        start_s = time.monotonic() + self._random.uniform(0, task.ramp_s)
        # What was said before is known, as if it had been heard step by step.
        num_known = 3 + int(index * task.step_s * TOKENS_PER_S) if index else 0
        tokens = PlannedSteps.plan[:num_known]
        for number in itertools.count(1):
            end_s = start_s + number * task.step_s
            if end_s >= window[1]:
                break
            index += 1
            await asyncio.sleep(max(0.0, end_s - time.monotonic()))
            # All but what the last two steps brought is committed.
            num_forced = max(0, len(tokens) - round(2 * TOKENS_PER_S * task.step_s))
            forced, draft = tokens[:num_forced], tokens[num_forced:]
            samples = self._audio[: round(index * task.step_s * RATE)]
            is_final = index == per_utterance
            step = Step(utterance, samples, 0, prompt, forced, draft, 64, is_final)
            try:
                outcome = await self._steps.step(step)
            except AsrError as error:
                self.failed.append(repr(error)[:200])
            else:
                if window[0] <= end_s:
                    self.lags.append(time.monotonic() - end_s)
                tokens = (*forced, *outcome.tokens)
            if is_final:
                index, utterance, tokens = 0, utterance + 1, ()
        self._steps.close()


async def speak(task: argparse.Namespace) -> dict[str, Any]:
    """All streams of this process, until the window ends."""
    engine = EngineClient([RemoteCore(Path(task.address), options())])
    engine.start()
    prompt = PromptBuilder(TextTokenizer.load(CHECKPOINT), 512).build()
    streams = [Stream(engine, task, number) for number in range(task.streams)]
    try:
        await asyncio.gather(*(stream.run(prompt, task.window) for stream in streams))
    finally:
        engine.stop()
    return {
        "lags": [round(lag, 5) for stream in streams for lag in stream.lags],
        "failed": [error for stream in streams for error in stream.failed],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(speak(argparse.Namespace(**json.loads(sys.argv[1]))))))
