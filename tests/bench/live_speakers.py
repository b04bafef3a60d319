"""Speakers of the live benchmark that ask an engine's process themselves, without a server.

    python -m tests.bench.live_speakers '{"address": ..., "streams": 125, ...}'

Several processes of them share the streams, as a server's fronts do. Each says when it is ready,
and begins at the moment that a line of its input names.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
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

    def __init__(self, task: argparse.Namespace, number: int) -> None:
        self._task = task
        rng = np.random.default_rng(task.first + number)
        self._audio = rng.normal(0, 0.1, round((task.utterance_s + 1) * RATE)).astype(np.float32)
        self._place = (task.first + number) / task.all_streams
        self.lags: list[float] = []
        self.failed: list[str] = []
        self.num_utterances = 0

    async def run(self, engine: EngineClient, prompt: Any) -> None:
        """Speak until the window ends; what falls into it counts. Streams begin one behind the
        other, each with an utterance: a device that met all of them in the midst of one, to encode
        whole, would be late for longer than the window."""
        task, window = self._task, self._task.window
        steps = PlannedSteps(engine.extend, engine.close)
        per_utterance = max(1, round(task.utterance_s / task.step_s))
        index, utterance = 0, 1
        start_s = task.began_s + task.ramp_s * self._place
        tokens: tuple[int, ...] = ()
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
                outcome = await steps.step(step)
            except AsrError as error:
                self.failed.append(repr(error)[:200])
            else:
                if window[0] <= end_s:
                    self.lags.append(time.monotonic() - end_s)
                tokens = (*forced, *outcome.tokens)
            if is_final:
                self.num_utterances += window[0] <= end_s
                index, utterance, tokens = 0, utterance + 1, ()
        steps.close()


async def speak(task: argparse.Namespace, streams: list[Stream]) -> dict[str, Any]:
    """All of this process, until the window ends."""
    engine = EngineClient([RemoteCore(Path(task.address), options())])
    engine.start()
    prompt = PromptBuilder(TextTokenizer.load(CHECKPOINT), 512).build()
    try:
        await asyncio.gather(*(stream.run(engine, prompt) for stream in streams))
    finally:
        engine.stop()
    return {
        "lags": [round(lag, 5) for stream in streams for lag in stream.lags],
        "failed": [error for stream in streams for error in stream.failed],
        "utterances": sum(stream.num_utterances for stream in streams),
    }


def main() -> None:
    task = argparse.Namespace(**json.loads(sys.argv[1]))
    streams = [Stream(task, number) for number in range(task.streams)]
    print("ready", flush=True)
    vars(task).update(json.loads(sys.stdin.readline()))
    print(json.dumps(asyncio.run(speak(task, streams))))


if __name__ == "__main__":
    main()
