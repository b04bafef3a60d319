"""How many live streams one device serves, and how late their text is: engine and WebSockets.

    python -m tests.bench.live --shape 1.7B --output live.json     (on the machine with the GPU)

Lag is from the end of a step's audio to its text in the client. All streams talk all the time, in
utterances of 4 s or in monologues: 16 s is where a session cuts talk without pauses at the first
dip of 0.1 s, 24 s where it cuts talk without any. Weights are random; see `live_steps` for what is
forced. One server serves all rows. Those through the engine ask its process directly; those through
WebSockets go through several fronts and the speech detector too, in messages of 0.1 s. Streams
begin with an utterance, as a session does, and evenly over the length of one, so that in the window
as many are at each place of theirs. `heard_utterance_s` is what utterances came to, and `busy`
processor time over the time of the window, in cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.environment import ROOT, describe
from tests.bench.live_busy import cores_between

START_TIMEOUT_S = 300
# The rows asked for, the most telling first: (through, step, utterance, streams).
ROWS = (
    "sockets:0.5:4:500", "sockets:0.5:4:1000", "sockets:0.5:16:600", "sockets:0.5:24:600",
    "engine:0.5:16:600", "engine:0.5:24:600", "engine:0.5:4:1000", "engine:0.5:4:500",
    "sockets:1:4:2000", "sockets:1:16:1200", "sockets:1:24:1200",
    "engine:1:4:2000", "engine:1:16:1200", "engine:1:24:1200",
)  # fmt: skip
DELAYS = {0.25: "minimal", 0.5: "low", 1.0: "medium", 2.0: "high"}
SPEAKERS = {"engine": "tests.bench.live_speakers", "sockets": "tests.bench.live_client"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """What is measured together."""

    through: str  # "engine" or "sockets"
    step_s: float
    utterance_s: float
    num_streams: int

    @classmethod
    def of(cls, text: str) -> Row:
        """THROUGH:STEP:UTTERANCE:STREAMS. Raises ValueError."""
        through, step_s, utterance_s, num_streams = text.split(":")
        if through not in SPEAKERS:
            raise ValueError(f"{through!r} is neither engine nor sockets")
        return cls(through, float(step_s), float(utterance_s), int(num_streams))

    @property
    def ramp_s(self) -> float:
        """In which its streams begin. An utterance begins with its stream: those that begin at
        once would all be long, and cut, at once."""
        return self.utterance_s


@dataclass(frozen=True)
class Running:
    """The server under test."""

    port: int
    engine: str  # address of its engine's process


@contextmanager
def server(arguments: argparse.Namespace, most: int) -> Iterator[Running]:
    """The real server with several fronts, and room for `most` streams."""
    command = [sys.executable, "-m", "tests.bench.http_server", arguments.shape, arguments.device]
    command += ["--http_port=0", "--enable_grpc=false", "--host=127.0.0.1", "--log_level=info"]
    command += [f"--max_live_sessions={most + 8}", f"--max_num_seqs={arguments.max_num_seqs}"]
    command += ["--max_model_len=768", "--segment_s=12", "--max_context_tokens=64"]
    command += ["--max_prefill_audio_s=640"]
    command += [f"--num_front_processes={arguments.fronts}"]
    environment = {**os.environ, "BENCH_LIVE": "1", "OMP_NUM_THREADS": "1"}
    environment["BENCH_MAX_PREFILL_TOKENS"] = str(arguments.max_prefill_tokens)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        killer = threading.Timer(START_TIMEOUT_S, process.kill)
        killer.start()
        try:
            said = _said_until_ready(process)
            killer.cancel()
            yield Running(int(said["listening"]), said["engine"])
        finally:
            killer.cancel()
            process.terminate()


def _said_until_ready(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    said: dict[str, str] = {}
    for line in process.stdout:
        name, _, value = line.strip().partition(" ")
        said[name] = value
        if name == "ready":
            return said
    raise RuntimeError("the server ended before it was ready")


def measure(arguments: argparse.Namespace, under_test: Running, row: Row) -> Json:
    """One row."""
    common = {
        "address": under_test.engine, "port": under_test.port, "delay": DELAYS[row.step_s],
        "step_s": row.step_s, "utterance_s": row.utterance_s, "ramp_s": row.ramp_s,
        "all_streams": row.num_streams,
    }  # fmt: skip
    shares = _shares(row.num_streams, arguments.clients)
    tasks = [{**common, "streams": count, "first": first} for first, count in shares]
    with _talkers(SPEAKERS[row.through], tasks) as (start, said):
        began_s = time.monotonic() + 0.5
        begin_s = began_s + row.ramp_s + arguments.warm_s
        end_s = begin_s + arguments.window_s
        start({"began_s": began_s, "window": (begin_s, end_s)})
        cores = cores_between(begin_s, end_s)
        results = said(end_s + 60)
    lags = [lag for result in results for lag in result["lags"]]
    failed = [error for result in results for error in result["failed"]]
    num_utterances = sum(result.get("utterances", 0) for result in results)
    heard_s = row.num_streams * arguments.window_s / num_utterances if num_utterances else None
    through = "engine" if row.through == "engine" else f"WebSockets, {arguments.fronts} fronts"
    return {
        "through": through,
        "step_s": row.step_s, "utterance_s": row.utterance_s, "streams": row.num_streams,
        "heard_utterance_s": heard_s and round(heard_s, 1),
        **_quantiles(lags), "partials_per_s": round(len(lags) / arguments.window_s, 1),
        "failures": len(failed), "first_failure": failed[:1], "busy": cores,
    }  # fmt: skip


def _quantiles(lags: list[float]) -> Json:
    if not lags:
        return {"error": "no partial came"}
    p50, p95, p99 = (round(1000 * float(q), 1) for q in np.quantile(lags, (0.5, 0.95, 0.99)))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def _shares(num_streams: int, num_clients: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the streams of each client."""
    first = 0
    for index in range(min(num_clients, num_streams)):
        count = num_streams // num_clients + (index < num_streams % num_clients)
        if num_streams < num_clients:
            count = 1
        yield first, count
        first += count


@contextmanager
def _talkers(module: str, tasks: list[Json]) -> Iterator[Any]:
    """Client processes that are ready; functions that tell them when, and that have what each says
    at its end, until a moment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(task)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for task in tasks
    ]  # fmt: skip

    def start(times: Json) -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(times) + "\n")
            process.stdin.flush()

    def results(until_s: float) -> list[Json]:
        found: list[Json] = []
        for process in processes:
            try:
                said, _ = process.communicate(timeout=max(1.0, until_s - time.monotonic()))
                found.append(json.loads(said))
            except (subprocess.TimeoutExpired, ValueError) as error:
                found.append({"lags": [], "failed": [repr(error)[:200]]})
        return found

    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # ready
        yield start, results
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="1.7B", help="1.7B, 0.6B, tiny, or paced: no device")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", nargs="+", default=ROWS, help="THROUGH:STEP:UTTERANCE:STREAMS")
    parser.add_argument("--window_s", type=float, default=8.0)
    parser.add_argument("--warm_s", type=float, default=3.0)
    parser.add_argument("--prepare_s", type=float, default=15.0, help="for the server's graphs")
    parser.add_argument("--max_num_seqs", type=int, default=256)
    parser.add_argument("--max_prefill_tokens", type=int, default=8192)
    parser.add_argument("--fronts", type=int, default=8)
    parser.add_argument("--clients", type=int, default=4, help="processes that speak")
    parser.add_argument("--budget_s", type=float, default=3600.0, help="no row begins after it")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    began_s = time.monotonic()
    plan = [Row.of(text) for text in arguments.rows]
    rows: list[Json] = []
    with server(arguments, max(row.num_streams for row in plan)) as under_test:
        print(json.dumps({"ready_s": round(time.monotonic() - began_s, 1)}), flush=True)
        time.sleep(arguments.prepare_s)
        for row in plan:
            if time.monotonic() - began_s > arguments.budget_s:
                break
            rows.append(measure(arguments, under_test, row))
            print(json.dumps(rows[-1]), flush=True)
            if arguments.output:  # as they come: a run that is cut short has said what it knew
                _write(arguments, rows)


def _write(arguments: argparse.Namespace, rows: list[Json]) -> None:
    asked = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
    result = {"environment": describe(), "method": __doc__, "asked": asked, "rows": rows}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
