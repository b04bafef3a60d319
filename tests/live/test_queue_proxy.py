"""A pod of Knative's that must go: live sessions end with a word before queue-proxy cuts them.

With QUEUE_PROXY=/path/of/knative.dev/serving/cmd/queue, built with Go, that program itself stands
before the server; else a stand-in answers probes by the rule of its drain handler.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from predictor.server.queue_proxy import port_beside_us, until_draining
from tests.api.conftest import Server, StartServer
from tests.live.server import COMPLETED, TRANSCRIPTION, append, client, pcm16, rest, until

PROGRAM = os.environ.get("QUEUE_PROXY")


class StandIn:
    """What drain.go says to `K-Network-Probe: probe`; requests go to the server directly."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_draining = False
        self.num_asked = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"K-Network-Probe: probe" in head
        self.num_asked += 1
        status = b"503 Service Unavailable" if self.is_draining else b"400 Bad Request"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def program(port: int, server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """The real queue-proxy before the server."""
    assert PROGRAM is not None
    where = httpx.URL(server.url).port
    names = ("NAMESPACE", "CONFIGURATION", "REVISION", "POD", "POD_IP")
    environment = {f"SERVING_{name}": "127.0.0.1" for name in names} | {
        "CONTAINER_CONCURRENCY": "0",
        "QUEUE_SERVING_PORT": str(port),
        "QUEUE_SERVING_TLS_PORT": str(free_port()),
        "USER_PORT": str(where),
        "REVISION_TIMEOUT_SECONDS": "600",
        "SERVING_LOGGING_CONFIG": "",
        "SERVING_LOGGING_LEVEL": "info",
        "SERVING_READINESS_PROBE": json.dumps({"httpGet": {"path": "/", "port": where}}),
    }
    process = subprocess.Popen([PROGRAM], env=os.environ | environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_only_a_queue_proxy_that_drains_ends_the_wait() -> None:
    stand_in = StandIn(0)
    async with await asyncio.start_server(stand_in.answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        is_wanted = False
        waiting = asyncio.create_task(until_draining(port, lambda: is_wanted, period_s=0.01))
        await asyncio.sleep(0.1)
        assert stand_in.num_asked == 0  # without sessions
        is_wanted = True
        while stand_in.num_asked < 3:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        stand_in.is_draining = True
        await waiting
    gone = asyncio.create_task(until_draining(port, lambda: True, period_s=0.01))
    await asyncio.sleep(0.1)
    assert not gone.done()  # nobody there
    gone.cancel()


def test_only_pods_of_knative_have_one() -> None:
    assert port_beside_us({}) is None
    assert port_beside_us({"K_REVISION": "qwen3-asr-00001"}) == 8012


def test_live_sessions_end_with_a_word_while_they_can_hear_it(
    start_server: StartServer, two: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("K_REVISION", "qwen3-asr-00001")
    monkeypatch.setenv("QUEUE_SERVING_PORT", str(port))
    server = start_server()

    async def run(url: str, drain: Any) -> tuple[list[Any], Any]:
        connection = await client(url).realtime.connect().enter()
        await append(connection, pcm16(two[: round(2.5 * 16_000)]))
        events = await until(connection, f"{TRANSCRIPTION}.delta")
        drain()
        await rest(connection, events)
        return events, connection._connection.close_code

    async def beside_a_stand_in() -> tuple[list[Any], Any]:
        stand_in = StandIn(port)
        async with await asyncio.start_server(stand_in.answer, "127.0.0.1", port):
            return await run(server.url, lambda: setattr(stand_in, "is_draining", True))

    if PROGRAM is None:
        events, code = asyncio.run(beside_a_stand_in())
    else:
        with program(port, server) as process:
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    if httpx.get(f"{url}/v2/health/live").status_code == 200:
                        break
                except httpx.TransportError:
                    continue
            events, code = asyncio.run(run(url, lambda: process.send_signal(signal.SIGTERM)))
            assert process.poll() is None  # it drains for 30 s, and the word came before that
    assert code == 1001
    kinds = [event.type for event in events]
    assert kinds.index("session.expiring") < kinds.index(COMPLETED)
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
