"""What the service reaches over HTTP, and what the server's own work costs the engine.

    python -m tests.bench.http --output tests/bench/results/http-GPU.json
    python -m tests.bench.http --shapes tiny --device cpu --budget_s 60            (a smoke test)
    python -m tests.bench.http --shapes paced --device cpu            (no device: the host alone)

The same loads four times: on the engine without HTTP, over HTTP with the engine in the server's
process, with the engine in its own, and with several fronts before it. Clients are processes that
post recordings of somebody who talks without a pause.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from tests.bench.environment import ROOT, describe
from tests.bench.http_alone import alone_row, unprepared_behind, wait_until_prepared
from tests.bench.http_client import Task
from tests.bench.http_clips import TYPES, write
from tests.bench.http_cpu import used_s
from tests.bench.http_load import Answers, Load, Window, difference, row
from tests.bench.load import TOKENS_PER_AUDIO_S, Shares

START_TIMEOUT_S = 240.0
# Without HTTP; beside the server; in a process of its own; there, before several fronts. And
# `engine_own`: in a process of its own, without HTTP.
MODES = ("engine", "shared", "own", "fronts")
METHOD = (
    "random weights; answers forced by ignoring end tokens; closed loop of so many requests in "
    "flight, warmed up, then counted in a window by the tokens that the engine makes, as answers "
    "come in waves; recordings of speech without pauses (WAV: 16 kHz "
    "PCM16; Opus 48 kHz mono, MP3 48 kHz stereo) from client processes on the same machine, to "
    "OpenAI's route (multipart), V1 (bare body) or V2 (binary); engine: the same loads through "
    "EngineClient.submit, without a server"
)
SERVER_FLAGS = (
    "--max_num_seqs={num_slots} --max_model_len=768 --max_prefill_audio_s=640 --segment_s=31 "
    "--max_tokens_per_audio_s=3.5 --max_context_tokens=64 --max_held_audio_s=1000000 "
    "--max_pending_bytes=4294967296 --language=English --enable_grpc=false --http_port=0 "
    "--vad={vad} --host=127.0.0.1"
)


LOADS = (
    *(Load(n, 30.0, route) for route in ("openai", "v2", "v1") for n in (256, 512)),
    Load(256, 10.0, "openai"),
    Load(64, 30.0, "openai"),
    *(Load(256, 30.0, "openai", media) for media in ("flac", "opus", "mp3")),
    Load(8, 8.0, "openai"),
)
ALONE = {"one clip": "", "one clip, vad=off": "off"}  # by what is asked for beside the model


class Bench:
    """One run: what is asked for, and the result as it grows."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.shape = ""
        self.device: str = arguments.device
        self.output: Path | None = arguments.output
        self.window_s: float = arguments.window_s
        self.warm_s: float = arguments.warm_s
        self.num_clients: int = arguments.clients
        self.num_fronts: int = arguments.fronts
        self.num_decoders: int = arguments.decoders
        self.vad: str = arguments.vad
        self.clips = Path(tempfile.mkdtemp(prefix="clips-"))
        self.wanted = [part for part in arguments.loads.split(",") if part]
        self.deadline = time.monotonic() + arguments.budget_s
        self.result: dict[str, Any] = {
            "environment": describe(),
            "tokens_per_audio_s": TOKENS_PER_AUDIO_S,
            "method": METHOD,
            "warm_s": self.warm_s,
            "window_s": self.window_s,
            "client_processes": self.num_clients,
            "fronts": self.num_fronts,
            "decoders": self.num_decoders or "auto",
            "vad": self.vad,
            "rows": {},
        }

    @property
    def loads(self) -> list[Load]:
        """None of them is called "alone", which asks for one clip at a time and nothing else."""
        tiny = (Load(4, 1.0, "openai", "mp3"), Load(4, 1.0, "v2"))
        loads = tiny if self.shape == "tiny" else LOADS
        return [w for w in loads if not self.wanted or any(p in w.name for p in self.wanted)]

    @property
    def alone(self) -> Load:
        return Load(1, 1.0 if self.shape == "tiny" else 10.0, "openai")

    @property
    def num_slots(self) -> int:
        return 4 if self.shape == "tiny" else 512

    @property
    def num_alone(self) -> int:
        return 2 if self.shape == "tiny" else 30

    def add(self, mode: str, name: str, measured: dict[str, Any]) -> None:
        self.result["rows"][f"{self.shape} {mode} {name}"] = measured
        print(f"{self.shape} {mode} {name}: {json.dumps(rounded(measured))}", file=sys.stderr)
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps(rounded(self.result), indent=1) + "\n")

    def attempt(self, mode: str, name: str, run: Callable[[], dict[str, Any]]) -> None:
        """One row; skipped when time is short, and its error is a result too."""
        if self.deadline - time.monotonic() < self.warm_s + self.window_s + 2:
            self.add(mode, name, {"skipped": "out of time"})
            return
        try:
            self.add(mode, name, run())
        except Exception as error:  # noqa: BLE001  the other rows go on
            traceback.print_exc()
            self.add(mode, name, {"error": f"{type(error).__name__}: {error}"[:500]})


def run_engine(bench: Bench, mode: str) -> None:
    """The loads without HTTP, in one go, since the model must be made."""
    alike = {(load.in_flight, load.duration_s): None for load in bench.loads}
    task = {
        "own": mode == "engine_own",
        "shape": bench.shape,
        "device": bench.device,
        "max_num_seqs": bench.num_slots,
        "loads": [asdict(Load(*load)) for load in alike],
        "warm_s": bench.warm_s,
        "window_s": bench.window_s,
        "num_alone": bench.num_alone,
        "alone_s": bench.alone.duration_s,
    }
    left_s = bench.deadline - time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.http_engine", json.dumps(task)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=max(1.0, left_s), check=True,
    )  # fmt: skip
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    for name, measured in rows.items():
        bench.add(mode, name, measured)


@contextmanager
def server(bench: Bench, mode: str, *further: str) -> Iterator[tuple[int, int]]:
    """The port and the process id of a server that is ready; `further` are flags of its own."""
    flags = [*SERVER_FLAGS.format(num_slots=bench.num_slots, vad=bench.vad).split(), *further]
    if bench.num_decoders:
        flags.append(f"--num_decode_workers={bench.num_decoders}")
    if mode == "fronts":
        flags.append(f"--num_front_processes={bench.num_fronts}")
    else:
        flags.append(f"--engine_process={str(mode == 'own').lower()}")
    command = [sys.executable, "-m", "tests.bench.http_server", bench.shape, bench.device, *flags]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        killer = threading.Timer(START_TIMEOUT_S, process.kill)
        killer.start()
        try:
            yield _port_when_ready(process.stdout, log), process.pid
        finally:
            killer.cancel()
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _port_when_ready(output: IO[str], log: IO[str]) -> int:
    port = 0
    for line in output:
        word, _, value = line.strip().partition(" ")
        if word == "listening":
            port = int(value)
        if word == "ready":
            return port
    log.seek(0)
    raise RuntimeError("the server did not start:\n" + log.read()[-3000:])


def look(port: int, server_pid: int) -> tuple[dict[str, float], Shares]:
    """Processor seconds of the server's processes, and the engine's counters, until now.

    Each question has a connection of its own, which any of the fronts may be dealt.
    """
    cpu_s = used_s(server_pid)
    asked: set[int] = set()
    steps: list[Shares] = []
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/bench/shares") as response:
            values = json.load(response)
        pid, num_fronts, _ = (values.pop(k) for k in ("pid", "num_fronts", "num_unprepared"))
        if pid not in asked:
            asked.add(pid)
            steps.append(Shares(**values))
        if len(asked) == num_fronts:
            # One of the fronts is told of the steps.
            return cpu_s, max(steps, key=lambda s: s.num_new_tokens)


Looks = list[tuple[dict[str, float], Shares]]


def ask_clients(tasks: list[Task], server_pid: int) -> tuple[Answers, Counter[str], Looks]:
    """Run client processes; all their answers, and looks at the server around the window."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.http_client", task.to_json()],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for task in tasks
    ]  # fmt: skip
    try:
        window, looks = tasks[0].window, Looks()
        if not tasks[0].count:
            for moment_s in (window.begin_s, window.end_s):
                time.sleep(max(0.0, moment_s - time.monotonic()))
                looks.append(look(tasks[0].port, server_pid))
        outputs = [json.loads(p.communicate(timeout=120)[0]) for p in processes]
    finally:
        for process in processes:
            process.kill()
    answers, errors = Answers(), Counter[str]()
    for output in outputs:
        answers.first_s += output["first_s"]
        answers.last_s += output["last_s"]
        answers.num_all += output["num_all"]
        errors.update(output["errors"])
    return answers, errors, looks


def task_of(bench: Bench, port: int, load: Load, window: Window) -> Task:
    """What a client does that keeps all of the load in flight."""
    # More seconds than a cache holds, and few enough that making them does not take long.
    count = max(2, round((60 if bench.shape == "tiny" else 480) / load.duration_s))
    clips = write(bench.clips, load.duration_s, load.media, min(count, 24))
    names = tuple(map(str, clips))
    least = round(4 * TOKENS_PER_AUDIO_S * load.duration_s)  # a made-up word has 3 to 6 letters
    task = Task(port, load.in_flight, names, TYPES[load.media], window, load.route)
    return replace(task, min_text=least)


def run_load(bench: Bench, port: int, server_pid: int, load: Load) -> dict[str, Any]:
    """One load over HTTP, its requests shared among the clients."""
    task = task_of(bench, port, load, Window(0, 0, 0))
    num_clients = min(bench.num_clients, load.in_flight)
    window = Window.from_now(bench.warm_s, bench.window_s, delay_s=1.5)  # clients start meanwhile
    tasks = []
    for index in range(num_clients):
        in_flight = load.in_flight * (index + 1) // num_clients
        in_flight -= load.in_flight * index // num_clients
        turned = task.clips[index:] + task.clips[:index]
        tasks.append(replace(task, in_flight=in_flight, window=window, clips=turned))
    answers, errors, looks = ask_clients(tasks, server_pid)
    (cpu_s, before), (cpu_end_s, after) = looks
    measured = row(load, answers, difference(before, after), bench.window_s)
    cpus = {role: (cpu_end_s[role] - cpu_s.get(role, 0.0)) / bench.window_s for role in cpu_end_s}
    measured |= {"server_cpus": sum(cpus.values()), "cpus": cpus}
    return measured | ({"error": f"failed requests: {errors}"[:500]} if errors else {})


def run_alone(bench: Bench, port: int, server_pid: int, vad: str = "") -> dict[str, Any]:
    """One clip at a time: the first words with stream=true, the whole answer without."""
    prepared_after_s = wait_until_prepared(lambda: unprepared_behind(port))
    task = task_of(bench, port, bench.alone, Window(0, 0, 0))
    task = replace(task, count=bench.num_alone, vad=vad)
    whole, errors, _ = ask_clients([task], server_pid)
    streamed, more_errors, _ = ask_clients([replace(task, stream=True)], server_pid)
    errors += more_errors
    measured = alone_row(streamed.first_s, whole.last_s, prepared_after_s)
    return measured | ({"error": f"failed requests: {errors}"[:500]} if errors else {})


def run_shape(bench: Bench, modes: list[str]) -> None:
    for mode in modes:
        try:
            if mode.startswith("engine"):
                run_engine(bench, mode)
                continue
            with server(bench, mode) as (port, pid):
                for load in bench.loads:
                    bench.attempt(
                        mode, load.name, lambda p=port, s=pid, w=load: run_load(bench, p, s, w)
                    )
                for name, vad in ALONE.items():
                    bench.attempt(
                        mode, name, lambda p=port, s=pid, v=vad: run_alone(bench, p, s, v)
                    )
        except Exception as error:  # noqa: BLE001  the other modes go on
            traceback.print_exc()
            bench.add(mode, "failed", {"error": f"{type(error).__name__}: {error}"[:2000]})


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{'row':<32}{'measured':>10} {'unit':<6}{'tokens/s':>10}{'between':>9}{'CPUs':>6}  latency"
    ]
    for name, measured in result["rows"].items():
        if "value" not in measured:
            lines.append(f"{name:<32}{measured.get('error') or measured.get('skipped')}")
            continue
        value, unit = measured["value"], measured["unit"]
        if unit == "ms":
            lines.append(
                f"{name:<32}{value:>10.4g} {unit:<31}  p95 {measured['p95_ms']:.4g}, first "
                f"{measured['first_ms']:.4g}, p95 {measured['first_p95_ms']:.4g} ms"
            )
            continue
        latency = measured["latency"] or {"p50_ms": 0, "p95_ms": 0}
        lines.append(
            f"{name:<32}{value:>10.4g} {unit:<6}{measured['tokens_per_s']:>10.5g}"
            f"{measured['between_steps_share']:>9.1%}{measured.get('server_cpus', 0):>6.2f}  "
            f"p50 {latency['p50_ms']:.4g}, p95 {latency['p95_ms']:.4g} ms"
            + "".join(f", {role} {used:.2f}" for role, used in measured.get("cpus", {}).items())
            + (f"  {measured['error']}" if "error" in measured else "")
        )
    return "\n".join(lines)


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="1.7B", help="1.7B, 0.6B, tiny, paced; comma-separated")
    parser.add_argument(
        "--modes", default=",".join(MODES), help="some of engine, engine_own, shared, own, fronts"
    )
    parser.add_argument(
        "--loads", default="", help="parts of their names, such as 64 x 10; alone: one clip; all"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--window_s", type=float, default=8.0)
    parser.add_argument("--warm_s", type=float, default=6.0)
    parser.add_argument("--clients", type=int, default=max(1, min(8, (os.cpu_count() or 2) // 2)))
    parser.add_argument("--fronts", type=int, default=4, help="processes in mode fronts")
    parser.add_argument("--decoders", type=int, default=0, help="of all fronts; 0: the default")
    parser.add_argument("--vad", default="silero", help="what finds speech, as the setting")
    parser.add_argument("--budget_s", type=float, default=540.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    bench = Bench(arguments)
    for shape in arguments.shapes.split(","):
        bench.shape = shape
        run_shape(bench, arguments.modes.split(","))
    print(table(bench.result), flush=True)


if __name__ == "__main__":
    main()
