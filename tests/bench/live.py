"""How many live streams one device serves, and how late their text is: engine and WebSockets.

    python -m tests.bench.live --shape 1.7B --output live.json      (on the machine with the GPU)

Lag is from the end of a step's audio to its text in the client. All streams talk all the time:
utterances of 4 s, and monologues of 24 s. Weights are random; see `live_steps` for what is forced.
The WebSockets' streams are the evaluation set's conversations, through the whole server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from predictor.engine import EngineClient
from predictor.errors import AsrError
from predictor.live.steps import Step
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from tests.bench.environment import ROOT, describe
from tests.bench.http_cpu import used_s
from tests.bench.live_steps import CHECKPOINT, TOKENS_PER_S, PlannedSteps
from tests.bench.load import Shares, options

RATE = 16_000
START_TIMEOUT_S = 300


class Stream:
    """One speaker in real time, without detector and server: utterance after utterance."""

    def __init__(self, engine: EngineClient, task: argparse.Namespace, number: int) -> None:
        self._steps = PlannedSteps(engine.extend, engine.close)
        self._task = task
        self._random = random.Random(number)
        rng = np.random.default_rng(number)
        self._audio = rng.normal(0, 0.1, round((task.utterance_s + 1) * RATE)).astype(np.float32)
        self.lags: list[float] = []
        self.num_failed = 0

    async def run(self, prompt: Any, window: tuple[float, float]) -> None:
        """Speak until the window ends; what falls into it counts."""
        task, utterance = self._task, 0
        await asyncio.sleep(self._random.uniform(0, task.utterance_s))
        start_s = time.monotonic()
        while start_s < window[1]:
            utterance += 1
            forced: tuple[int, ...] = ()
            draft: tuple[int, ...] = ()
            num_steps = max(1, round(task.utterance_s / task.step_s))
            for index in range(1, num_steps + 1):
                end_s = start_s + index * task.step_s
                await asyncio.sleep(max(0.0, end_s - time.monotonic()))
                samples = self._audio[: round(index * task.step_s * RATE)]
                step = Step(utterance, samples, 0, prompt, forced, draft, 64, index == num_steps)
                try:
                    outcome = await self._steps.step(step)
                except AsrError:
                    self.num_failed += 1
                    continue
                if window[0] <= end_s <= window[1]:
                    self.lags.append(time.monotonic() - end_s)
                tokens = (*forced, *outcome.tokens)
                forced = tokens[: max(0, len(tokens) - round(2 * TOKENS_PER_S * task.step_s))]
                draft = tokens[len(forced) :]
            start_s += num_steps * task.step_s
        self._steps.close()


async def _engine_row(engine: EngineClient, task: argparse.Namespace) -> dict[str, Any]:
    prompt = PromptBuilder(TextTokenizer.load(CHECKPOINT), 512).build()
    streams = [Stream(engine, task, number) for number in range(task.num_streams)]
    now_s = time.monotonic()
    begin_s = now_s + task.warm_s + task.utterance_s
    window = (begin_s, begin_s + task.window_s)
    await asyncio.gather(*(stream.run(prompt, window) for stream in streams))
    lags = [lag for stream in streams for lag in stream.lags]
    return {
        **_row(lags, task.num_streams),
        "failed_steps": sum(stream.num_failed for stream in streams),
        "steps_per_s": len(lags) / task.window_s,
    }


def _row(lags: list[float], num_streams: int) -> dict[str, Any]:
    if not lags:
        return {"streams": num_streams, "error": "no partial came"}
    p50, p95, p99 = (round(1000 * float(q), 1) for q in np.quantile(lags, (0.5, 0.95, 0.99)))
    return {"streams": num_streams, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def engine_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The engine in a process of its own, or here where it is small."""
    from tests.bench.http_engine import bench_engine, bench_process

    shares = Shares()
    most = max(arguments.streams)
    settings = options(
        max_num_seqs=arguments.max_num_seqs,
        max_model_len=768,
        max_kept_sequences=most + 8,
        max_kept_audio_s=float(most * 40),
    )
    make = bench_engine if arguments.device == "cpu" else bench_process
    engine = EngineClient([make(arguments.shape, arguments.device, settings, shares.add)])
    engine.start()
    rows = []
    try:
        for step_s in arguments.steps:
            for utterance_s in arguments.utterances:
                for num_streams in arguments.streams:
                    task = argparse.Namespace(
                        **vars(arguments) | {
                            "step_s": step_s, "utterance_s": utterance_s,
                            "num_streams": num_streams,
                        }
                    )  # fmt: skip
                    row = asyncio.run(_engine_row(engine, task))
                    row = {"through": "engine", "step_s": step_s, "utterance_s": utterance_s, **row}
                    print(json.dumps(row), flush=True)
                    rows.append(row)
    finally:
        engine.stop()
    return rows


def socket_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The real server with several fronts, and clients in processes of their own."""
    rows = []
    most = max(arguments.streams)
    command = [sys.executable, "-m", "tests.bench.http_server", arguments.shape, arguments.device]
    command += ["--http_port=0", "--enable_grpc=false", "--host=127.0.0.1", "--log_level=info"]
    command += [f"--max_live_sessions={most + 8}", f"--max_num_seqs={arguments.max_num_seqs}"]
    command += ["--max_model_len=1536", f"--num_front_processes={arguments.fronts}"]
    environment = {**os.environ, "BENCH_LIVE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        killer = threading.Timer(START_TIMEOUT_S, server.kill)
        killer.start()
        try:
            port = _port_when_ready(server)
            killer.cancel()
            for step_s in arguments.steps:
                for num_streams in arguments.streams:
                    row = _talk(arguments, port, server.pid, step_s, num_streams)
                    row = {"through": "WebSockets", "step_s": step_s, "utterance_s": "talk", **row}
                    print(json.dumps(row), flush=True)
                    rows.append(row)
        finally:
            killer.cancel()
            server.terminate()
    return rows


def _port_when_ready(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    port = 0
    for line in server.stdout:
        if line.startswith("listening"):
            port = int(line.split()[1])
        if line.startswith("ready"):
            return port
    raise RuntimeError("the server ended before it was ready")


def _talk(
    arguments: argparse.Namespace, port: int, server_pid: int, step_s: float, num_streams: int
) -> dict[str, Any]:
    num_clients = min(arguments.clients, num_streams)
    delay = {0.25: "minimal", 0.5: "low", 1.0: "medium", 2.0: "high"}[step_s]
    processes = []
    for index in range(num_clients):
        share = num_streams // num_clients + (index < num_streams % num_clients)
        task = {
            "port": port, "streams": share, "delay": delay, "talk_s": arguments.talk_s,
            "ramp_s": arguments.ramp_s, "warm_s": arguments.warm_s,
            "window_s": arguments.window_s,
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.live_client", json.dumps(task)],
                cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    time.sleep(arguments.ramp_s + arguments.warm_s + 2.0)  # they import meanwhile
    before, began_s = used_s(server_pid), time.monotonic()
    time.sleep(arguments.window_s / 2)
    after, wall_s = used_s(server_pid), time.monotonic() - began_s
    cpus = {role: round((after[role] - before.get(role, 0.0)) / wall_s, 2) for role in after}
    results = [json.loads(process.communicate(timeout=600)[0]) for process in processes]
    row = _row([lag for result in results for lag in result["lags"]], num_streams)
    failed = [error for result in results for error in result["failed"]]
    return {**row, "failed_streams": len(failed), "first_failure": failed[:1], "cpus": cpus}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="1.7B", help="1.7B, 0.6B or tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--modes", nargs="+", default=["engine", "websockets"])
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 250, 500, 750, 1000])
    parser.add_argument("--steps", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--utterances", type=float, nargs="+", default=[4.0, 24.0])
    parser.add_argument("--window_s", type=float, default=12.0)
    parser.add_argument("--warm_s", type=float, default=4.0)
    parser.add_argument("--ramp_s", type=float, default=5.0, help="in which WebSockets connect")
    parser.add_argument("--talk_s", type=float, default=60.0, help="of each looped conversation")
    parser.add_argument("--max_num_seqs", type=int, default=256)
    parser.add_argument("--fronts", type=int, default=4)
    parser.add_argument("--clients", type=int, default=4, help="processes that speak")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if "engine" in arguments.modes:
        rows += engine_rows(arguments)
    if "websockets" in arguments.modes:
        rows += socket_rows(arguments)
    if arguments.output:
        result = {"environment": describe(), "shape": arguments.shape, "rows": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
