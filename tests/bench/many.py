"""Memory of the whole server after many requests, mixed by protocol, format and length.

    python -m tests.bench.many --count 100000 --output tests/bench/results/many-cpu.json

Two fronts, their decoders and the engine's process with the real core, whose runner answers at
once; no GPU. Each request is the next of all combinations; one in fifty holds no recording, and is
refused. What is shared between processes counts once (PSS).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

from tests.bench.environment import ROOT, describe
from tests.bench.http_client import MODEL, Connection, request_bytes
from tests.bench.http_clips import TYPES, write
from tests.bench.memory import pss_of_tree

FLAGS = (
    "--num_front_processes=2 --num_decode_workers=2 --http_port=0 --grpc_port=0 --host=127.0.0.1 "
    "--max_num_seqs=64 --max_model_len=768 --max_tokens_per_audio_s=3.5 --language=English "
    "--max_context_tokens=64"
)
ROUTES = ("openai", "openai-stream", "v1", "v2", "v2-json", "grpc")
DURATIONS_S = (0.5, 0.8, 1.2, 1.9)
WORSE_EVERY = 50  # this one holds no recording
NO_RECORDING = b"this is no recording, but it is as long as a header would be".ljust(400)
REPORT_EVERY = 100
MARKS = 20  # looks at the memory

Ask = Callable[[], Awaitable[bool]]  # whether it was answered as it should


@contextmanager
def server() -> Iterator[tuple[int, int, int]]:
    """(process id, HTTP port, gRPC port) of a server that is ready."""
    command = [sys.executable, "-m", "tests.bench.http_server", "instant", "cpu", *FLAGS.split()]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        said: dict[str, str] = {}
        try:
            for line in process.stdout:
                word, _, value = line.strip().partition(" ")
                said[word] = value
                if word == "ready":
                    break
            if "ready" not in said:
                log.seek(0)
                raise RuntimeError("the server did not start:\n" + log.read()[-3000:])
            yield process.pid, int(said["listening"]), int(said["grpc"])
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


class Client:
    """Every combination of route, format and length, by its number."""

    def __init__(self, http_port: int, grpc_port: int, folder: Path) -> None:
        self._http_port = http_port
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}")
        self._stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        clips = [
            (path.read_bytes(), TYPES[media])
            for media, duration_s in itertools.product(TYPES, DURATIONS_S)
            for path in write(folder, duration_s, media, 1)
        ]
        self._kinds = list(itertools.product(ROUTES, clips))
        self._built: dict[tuple[str, bytes], bytes | pb.ModelInferRequest] = {}

    def connection(self) -> Connection:
        return Connection(self._http_port)

    async def ask(self, number: int, connection: Connection) -> bool:
        """Whether the answer is what it should be."""
        route, (data, content_type) = self._kinds[number % len(self._kinds)]
        is_bad = number % WORSE_EVERY == 0
        request = self._request(route, NO_RECORDING if is_bad else data, content_type)
        if isinstance(request, bytes):
            status, _, body = await connection.ask(request)
            return (status == 400) if is_bad else (status == 200 and len(body) > 10)
        try:
            answer = await self._stub.ModelInfer(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            return is_bad and error.code() is grpc.StatusCode.INVALID_ARGUMENT
        return not is_bad and len(answer.outputs) > 0

    def _request(self, route: str, data: bytes, content_type: str) -> bytes | pb.ModelInferRequest:
        key = route, data
        if key not in self._built:
            if route == "grpc":
                framed = len(data).to_bytes(4, "little") + data
                message = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[framed])
                message.inputs.add(name="audio", datatype="BYTES", shape=[1])
                self._built[key] = message
            else:
                path = route.removesuffix("-stream")
                is_stream = route == "openai-stream"
                self._built[key] = request_bytes(
                    data, content_type, path, {"stream": "true"} if is_stream else None
                )
        return self._built[key]


async def ask_many(
    http_port: int, grpc_port: int, folder: Path, numbers: Iterator[int], at_once: int
) -> None:
    """Ask for all numbers; prints how many were answered, and how."""
    client = Client(http_port, grpc_port, folder)
    counts: Counter[str] = Counter()

    def report() -> None:
        print(json.dumps(counts), flush=True)
        counts.clear()

    async def worker() -> None:
        connection = client.connection()
        for number in numbers:
            try:
                counts["right" if await client.ask(number, connection) else "wrong"] += 1
            except (OSError, asyncio.IncompleteReadError):
                counts["broken"] += 1
                connection.close()
            if counts.total() >= REPORT_EVERY:
                report()
        connection.close()

    await asyncio.gather(*(worker() for _ in range(at_once)))
    report()


def ask_on(http_port: int, grpc_port: int, folder: str, first: int, step: int, count: int) -> None:
    """One of several client processes."""
    numbers = iter(range(first, count, step))
    asyncio.run(ask_many(http_port, grpc_port, Path(folder), numbers, 4))


def measure(count: int, num_clients: int, save: Callable[[dict[str, Any]], None]) -> None:
    """Memory by module at every mark, and how the requests were answered; saved at each."""
    looks: dict[int, dict[str, float]] = {}
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, server() as (pid, http_port, grpc_port):
        for media, duration_s in itertools.product(TYPES, DURATIONS_S):
            write(Path(folder), duration_s, media, 1)
        said, write_end = os.pipe()
        command = [sys.executable, "-m", "tests.bench.many", "--ask", str(http_port)]
        command += [str(grpc_port), folder]
        clients = [
            subprocess.Popen([*command, str(i), str(num_clients), str(count)], cwd=ROOT,
                             stdout=write_end)
            for i in range(num_clients)
        ]  # fmt: skip
        os.close(write_end)
        began_s = time.monotonic()
        with open(said) as lines:
            for line in lines:
                outcomes.update(json.loads(line))
                if outcomes.total() >= count * (len(looks) + 1) // MARKS:
                    looks[outcomes.total()] = look = pss_of_tree(pid)
                    at_s = time.monotonic() - began_s
                    print(f"{at_s:.0f} s", outcomes, f"{sum(look.values()):.1f} MiB", flush=True)
                    save(_summary(looks, outcomes, at_s))
        assert all(client.wait() == 0 for client in clients)


def _summary(
    looks: dict[int, dict[str, float]], outcomes: Counter[str], at_s: float
) -> dict[str, Any]:
    return {
        "pss_mib_after": {str(n): round(sum(look.values()), 1) for n, look in looks.items()},
        "by_module": {str(n): {k: round(v, 1) for k, v in x.items()} for n, x in looks.items()},
        "outcomes": outcomes,
        "seconds": round(at_s, 1),
    }


def main() -> None:
    if sys.argv[1:2] == ["--ask"]:
        http_port, grpc_port, folder, first, step, count = sys.argv[2:]
        ask_on(int(http_port), int(grpc_port), folder, int(first), int(step), int(count))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=2, help="processes, four requests each")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    head = {"environment": describe(), "method": __doc__, "flags": FLAGS}
    head |= {"formats": list(TYPES), "routes": ROUTES, "seconds_of_audio": DURATIONS_S}

    def save(measured: dict[str, Any]) -> None:
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(head | measured, indent=1) + "\n")

    measure(arguments.count, arguments.clients, save)


if __name__ == "__main__":
    main()
