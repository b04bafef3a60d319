"""What the host spends on each step of a live session, on a device that takes no time.

    python -m tests.bench.live_host --output tests/bench/results/live-host.json

The core with the runner for CUDA as it is: its books, the layout of each prefill, what is filled
into the buffers of its graphs, and what is read from them; graphs that do nothing stand in for the
device's. Sessions ask for their next step when they have the one before. One core of this machine.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from predictor.audio.silero import FRAME_SAMPLES
from predictor.audio.vad import FRAME_S, VadState, load_silero
from predictor.engine import EngineCore
from predictor.engine.cuda.prefill_graphs import PrefillGraphs
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.options import StepStats
from predictor.engine.protocol import Emission
from predictor.processes.heap import keep_freed_memory
from predictor.types import SAMPLE_RATE_HZ, ExtendRequest
from tests.bench.environment import describe
from tests.bench.load import options, without_end
from tests.bench.shapes import SHAPES, random_model

TOKENS_PER_S, STEP_S = 3.5, 0.5
NUM_BEFORE, NUM_AFTER = 13, 9
NOISE = np.random.default_rng(0).normal(0, 0.1, 25 * SAMPLE_RATE_HZ).astype(np.float32)


class NoDevice:
    """A graph whose replay takes no time and leaves its results as they are; makes more of them."""

    def capture(self, run: Callable[[], None]) -> NoDevice:
        return self

    def replay(self) -> None:
        pass


def hosts_runner(num_slots: int = 256) -> GraphRunner:
    """The runner for CUDA with all graphs made, none of which does anything."""
    config = SHAPES["tiny"]
    with torch.inference_mode():
        model = random_model(config, torch.device("cpu"), torch.float32)
        graph_options = GraphOptions(check_kernels=False, max_prefill_audio_s=640.0)
        runner = GraphRunner(model, num_slots=num_slots, max_model_len=768, options=graph_options)
        prefills = runner._prefills
        graphs = PrefillGraphs(
            prefills._mel, prefills._encoder, prefills._decoder, prefills._loop,
            NoDevice(),  # type: ignore[arg-type]
            max_length=768, max_audio_s=640.0, max_tokens=8192,
            window_chunks=config.audio.window_chunks,
        )  # fmt: skip
        while graphs.has_missing:
            graphs.capture_next()
    prefills.graphs = graphs
    runner._loop.graphs = {bucket: NoDevice() for bucket in runner._buckets}  # type: ignore[misc]
    runner._fused.fusion = replace(runner._fused.fusion, prefill=True)
    without_end(runner)
    return runner


def steps_of(number: int, utterance_s: float) -> Iterator[ExtendRequest]:
    """The steps of one session for ever: text grows, what is older than 1 s is committed, and a
    step decodes what is new (see live_steps)."""
    rng = random.Random(number)
    sequence_id, count = f"s{number}", 0
    per_utterance = round(utterance_s / STEP_S)
    size = round(STEP_S * SAMPLE_RATE_HZ)
    index, starts_anew = 0, True
    last = rng.randrange(1, per_utterance + 1)  # so that sessions are not in step
    while True:
        while index < last:
            index += 1
            count += 1
            first = 0 if starts_anew else (index - 1) * size
            num_text = 3 + int(index * STEP_S * TOKENS_PER_S)
            num_new = int(TOKENS_PER_S * STEP_S) + (4 if rng.random() < 0.15 else 0)
            num_known = max(0, num_text - num_new)
            num_draft = min(num_known, 4)
            yield ExtendRequest(
                request_id=f"{sequence_id}:{count}",
                sequence_id=sequence_id,
                samples=NOISE[first : index * size],
                tokens_before=tuple(range(100, 100 + NUM_BEFORE)),
                tokens_after=tuple(range(200, 200 + NUM_AFTER)),
                max_new_tokens=num_text - num_known + 1,
                forced=tuple(range(300, 300 + num_known - num_draft)),
                draft=tuple(range(400, 400 + num_draft)),
                starts_anew=starts_anew,
            )
            starts_anew = False
        index, starts_anew, last = 0, True, per_utterance


class Driver:
    """Sessions that each have one step in flight."""

    def __init__(self, num_sessions: int, utterance_s: float, most: int) -> None:
        self._steps = {f"s{n}": steps_of(n, utterance_s) for n in range(num_sessions)}
        self._left = most
        self.num_done = 0
        self.done = threading.Event()
        self.core: EngineCore

    def begin(self) -> None:
        for steps in self._steps.values():
            self.core.extend(next(steps), self.receive)

    def receive(self, emissions: Sequence[Emission]) -> None:
        """In the engine's thread."""
        for request_id, item in emissions:
            if self.done.is_set() or getattr(item, "finish", "error") is None:
                continue
            if isinstance(item, Exception):
                raise item
            self.num_done += 1
            if self.num_done >= self._left:
                self.done.set()
                return
            self.core.extend(next(self._steps[request_id.partition(":")[0]]), self.receive)


def measure(
    num_sessions: int, utterance_s: float, num_steps: int, profile: bool = False
) -> dict[str, Any]:
    """Microseconds of the core's thread for each step, and how steps were put together."""
    rounds: list[StepStats] = []
    driver = Driver(num_sessions, utterance_s, num_steps)
    settings = options(max_num_seqs=256, max_kept_sequences=num_sessions + 8, max_kept_audio_s=1e6)
    core = driver.core = EngineCore(hosts_runner(), settings, rounds.append)
    profiler = cProfile.Profile()
    if profile:
        run = core._loop

        def profiled() -> None:
            profiler.runcall(run)

        core._loop = profiled  # type: ignore[method-assign]
    core.start()
    cpu_s, wall_s = time.process_time(), time.monotonic()
    driver.begin()
    assert driver.done.wait(600)
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    core.stop()
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
    prefills = [r for r in rounds if r.phase == "prefill"]
    return {
        "utterance_s": utterance_s,
        "sessions": num_sessions,
        "cpu_us_a_step": round(1e6 * cpu_s / driver.num_done, 1),
        "steps": driver.num_done,
        "steps_a_prefill": round(driver.num_done / len(prefills), 1),
        "decode_looks_a_prefill": round((len(rounds) - len(prefills)) / len(prefills), 2),
    }


def detector_ms(num_streams: int, num_frames: int = 3) -> float:
    """Milliseconds of one core for a second of one stream's audio, where so many are heard at
    once; a message of 0.1 s has three frames."""
    detector, state = load_silero(), VadState.new(num_streams)
    frames = np.resize(NOISE, (num_streams, num_frames, FRAME_SAMPLES))
    detector.hear(frames, state)
    began_s = time.process_time()
    for _ in range(20):
        _, state = detector.hear(frames, state)
    spent_s = time.process_time() - began_s
    return round(1e3 * spent_s / (20 * num_streams * num_frames * FRAME_S), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=[24, 48, 96, 250])
    parser.add_argument("--utterances", type=float, nargs="+", default=[4.0, 24.0])
    parser.add_argument("--num_steps", type=int, default=6000)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = []
    for utterance_s in arguments.utterances:
        for num_sessions in arguments.sessions:
            rows.append(measure(num_sessions, utterance_s, arguments.num_steps, arguments.profile))
            print(json.dumps(rows[-1]), flush=True)
    detector = {n: detector_ms(n) for n in (1, 16, 64, 256)}
    print(json.dumps({"silero, ms of a core for a stream's second": detector}), flush=True)
    if arguments.output:
        result = {
            "environment": describe(), "method": __doc__, "rows": rows,
            "silero ms of a core for a stream's second, by streams heard at once": detector,
        }  # fmt: skip
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
