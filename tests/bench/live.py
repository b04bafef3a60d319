"""How many live streams one device serves, and how late their text is: engine and WebSockets.

    python -m tests.bench.live --shape 1.7B --output live.json     (on the machine with the GPU)

Lag is from the end of a step's audio to its text in the client. All streams talk all the time:
utterances of 4 s, and monologues of 24 s. Weights are random; see `live_steps` for what is forced.
WebSockets go through the whole server, its speech detector too: talk that pauses every 4 s, or
never, in messages of 0.1 s.
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
from pathlib import Path
from typing import Any

import numpy as np

from predictor.engine import CoreProcess, EngineSpec
from tests.bench.environment import ROOT, describe
from tests.bench.load import options

START_TIMEOUT_S = 300

Json = dict[str, Any]


def _row(lags: list[float], num_streams: int) -> Json:
    if not lags:
        return {"streams": num_streams, "error": "no partial came"}
    p50, p95, p99 = (round(1000 * float(q), 1) for q in np.quantile(lags, (0.5, 0.95, 0.99)))
    return {"streams": num_streams, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def engine_rows(arguments: argparse.Namespace) -> Iterator[Json]:
    """The engine in a process of its own, and speakers in others."""
    most = max(num_streams for _, _, num_streams in _plan(arguments))
    settings = options(
        max_num_seqs=arguments.max_num_seqs,
        max_model_len=768,
        max_kept_sequences=most + 8,
        max_kept_audio_s=float(most * 40),
    )
    spec = EngineSpec(Path(arguments.shape), arguments.device, "auto", settings)
    process = CoreProcess(worker="tests.bench.http_worker")
    process.load(spec)
    try:
        for step_s, utterance_s, num_streams in _plan(arguments):
            row = _speak(arguments, str(process.address), step_s, utterance_s, num_streams)
            yield {"through": "engine", "step_s": step_s, "utterance_s": utterance_s, **row}
    finally:
        process.stop()


def _plan(arguments: argparse.Namespace) -> Iterator[tuple[float, float, int]]:
    """(seconds of a step, seconds of an utterance, streams) of each row."""
    for row in arguments.rows:
        step_s, utterance_s, num_streams = row.split(":")
        yield float(step_s), float(utterance_s), int(num_streams)
    if arguments.rows:
        return
    for step_s in arguments.steps:
        for utterance_s in arguments.utterances:
            for num_streams in arguments.streams:
                yield step_s, utterance_s, num_streams


def _speak(
    arguments: argparse.Namespace, address: str, step_s: float, utterance_s: float, num_streams: int
) -> Json:
    start_s = arguments.process_s + arguments.warm_s + utterance_s
    begin_s = time.monotonic() + start_s
    common = {
        "address": address, "step_s": step_s, "utterance_s": utterance_s,
        "window": (begin_s, begin_s + arguments.window_s),
    }  # fmt: skip
    tasks = [{**common, "streams": share, "first": first}
             for first, share in _shares(num_streams, arguments.clients)]  # fmt: skip
    results = _run("tests.bench.live_speakers", tasks, start_s + arguments.window_s)
    lags = [lag for result in results for lag in result["lags"]]
    return {
        **_row(lags, num_streams),
        "failed_steps": sum(result["failed"] for result in results),
        "steps_per_s": len(lags) / arguments.window_s,
    }


def _shares(num_streams: int, num_clients: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the streams of each client."""
    first = 0
    for index in range(min(num_clients, num_streams)):
        count = num_streams // num_clients + (index < num_streams % num_clients)
        if num_streams < num_clients:
            count = 1
        yield first, count
        first += count


def _run(module: str, tasks: list[Json], seconds: float) -> list[Json]:
    """What each client process says at its end; nothing of one that does not end."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(task)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for task in tasks
    ]  # fmt: skip
    results: list[Json] = []
    deadline_s = time.monotonic() + seconds + 60
    for process in processes:
        try:
            said, _ = process.communicate(timeout=max(1.0, deadline_s - time.monotonic()))
            results.append(json.loads(said))
        except (subprocess.TimeoutExpired, ValueError) as error:
            process.kill()
            results.append({"lags": [], "failed": [repr(error)[:200]]})
    return results


def socket_rows(arguments: argparse.Namespace) -> Iterator[Json]:
    """The real server with several fronts, and clients in processes of their own."""
    most = max(num_streams for _, _, num_streams in _plan(arguments))
    command = [sys.executable, "-m", "tests.bench.http_server", arguments.shape, arguments.device]
    command += ["--http_port=0", "--enable_grpc=false", "--host=127.0.0.1", "--log_level=info"]
    command += [f"--max_live_sessions={most + 8}", f"--max_num_seqs={arguments.max_num_seqs}"]
    command += ["--max_model_len=768", "--segment_s=12", "--max_context_tokens=64"]
    command += ["--max_prefill_audio_s=640"]
    command += [f"--num_front_processes={arguments.fronts}"]
    environment = {**os.environ, "BENCH_LIVE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        killer = threading.Timer(START_TIMEOUT_S, server.kill)
        killer.start()
        try:
            port = _port_when_ready(server)
            killer.cancel()
            for step_s, utterance_s, num_streams in _plan(arguments):
                row = _talk(arguments, port, step_s, utterance_s, num_streams)
                through = f"WebSockets, {arguments.fronts} fronts"
                yield {"through": through, "step_s": step_s, "utterance_s": utterance_s, **row}
        finally:
            killer.cancel()
            server.terminate()


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
    arguments: argparse.Namespace, port: int, step_s: float, utterance_s: float, num_streams: int
) -> Json:
    # Streams that never pause are cut in step with their beginning.
    ramp_s = max(arguments.ramp_s, utterance_s)
    delay = {0.25: "minimal", 0.5: "low", 1.0: "medium", 2.0: "high"}[step_s]
    tasks = [
        {
            "port": port, "streams": count, "first": first, "delay": delay,
            "utterance_s": utterance_s, "ramp_s": ramp_s, "warm_s": arguments.warm_s,
            "window_s": arguments.window_s,
        }
        for first, count in _shares(num_streams, arguments.clients)
    ]  # fmt: skip
    seconds = ramp_s + arguments.warm_s + arguments.window_s
    results = _run("tests.bench.live_client", tasks, seconds)
    row = _row([lag for result in results for lag in result["lags"]], num_streams)
    failed = [error for result in results for error in result["failed"]]
    seen = sum(len(result["lags"]) for result in results) / arguments.window_s
    return {
        **row, "partials_per_s": round(seen, 1), "failed_streams": len(failed),
        "first_failure": failed[:1],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="1.7B", help="1.7B, 0.6B or tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--modes", nargs="+", default=["engine", "websockets"])
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 250, 500, 750, 1000])
    parser.add_argument("--steps", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--utterances", type=float, nargs="+", default=[4.0, 24.0])
    parser.add_argument("--rows", nargs="+", default=[], help="STEP:UTTERANCE:STREAMS, in place")
    parser.add_argument("--window_s", type=float, default=12.0)
    parser.add_argument("--warm_s", type=float, default=4.0)
    parser.add_argument("--ramp_s", type=float, default=5.0, help="in which WebSockets connect")
    parser.add_argument("--max_num_seqs", type=int, default=256)
    parser.add_argument("--fronts", type=int, default=4)
    parser.add_argument("--clients", type=int, default=4, help="processes that speak")
    parser.add_argument("--process_s", type=float, default=4.0, help="in which those start")
    parser.add_argument("--budget_s", type=float, default=3600.0, help="no row begins after it")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    began_s = time.monotonic()
    rows: list[Json] = []
    kinds = {"engine": engine_rows, "websockets": socket_rows}
    for mode in arguments.modes:
        for row in kinds[mode](arguments):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if arguments.output:  # as they come: a run that is cut short has said what it knew
                _write(arguments, rows)
            if time.monotonic() - began_s > arguments.budget_s:
                break


def _write(arguments: argparse.Namespace, rows: list[Json]) -> None:
    asked = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
    result = {"environment": describe(), "method": __doc__, "asked": asked, "rows": rows}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
