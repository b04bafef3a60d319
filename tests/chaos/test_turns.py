"""What comes in at once is worked on in turns, and who takes no answer does not stay.

uvicorn as we set it up, before an application that does next to nothing.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, cast

import pytest
import uvicorn
import websockets
from websockets.asyncio.client import connect as connect_websocket

from predictor.api.connections import ConnectionLimits, Connections
from predictor.api.held_bytes import HeldBytes
from predictor.api.websocket import MAX_MESSAGE_BYTES, GuardedWebSocket
from tests.chaos.sockets import head
from tests.chaos.turns import longest_allowed_s, longest_turn

KIB, MIB = 1024, 1024 * 1024
LARGE = bytes(8 * MIB)


class Application:
    """Answers requests, with much for `/large`; takes messages when `may_take` is set."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.num_body_bytes = 0
        self.when_answered: Callable[[], None] = lambda: None
        self.may_take = asyncio.Event()
        self.taken: list[int] = []
        self.has_ended = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._websocket(receive, send)
            return
        self.paths.append(scope["path"])
        while (message := await receive()).get("more_body"):
            self.num_body_bytes += len(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = LARGE if scope["path"] == "/large" else b"yes"
        await send({"type": "http.response.body", "body": body})
        self.when_answered()

    async def _websocket(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await self.may_take.wait()
        while (message := await receive())["type"] == "websocket.receive":
            self.taken.append(len(message.get("bytes") or message.get("text")))
        self.has_ended.set()


class Served:
    """A running server."""

    def __init__(self, limits: ConnectionLimits, max_held_bytes: int) -> None:
        self.app = Application()
        self.held = HeldBytes(max_held_bytes)
        self.connections = Connections(limits)
        config = uvicorn.Config(
            self.app,
            http=cast(Any, self.connections.protocol),
            ws=cast(Any, partial(GuardedWebSocket, self.held)),
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            log_config=None,
            lifespan="off",
        )
        self.server = uvicorn.Server(config)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.clients: list[asyncio.StreamWriter] = []

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address)
        self.clients.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        for client in self.clients:
            client.transport.abort()
            with suppress(OSError):
                await client.wait_closed()


@asynccontextmanager
async def served(
    limits: ConnectionLimits | None = None, max_held_bytes: int = 512 * MIB
) -> AsyncIterator[Served]:
    made = Served(limits or ConnectionLimits(), max_held_bytes)
    made.server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]
    serving = asyncio.create_task(made.server.serve(sockets=[made.listener]))
    while not made.server.started:
        await asyncio.sleep(0.01)
    try:
        yield made
    finally:
        await made.hang_up()
        made.server.should_exit = made.server.force_exit = True
        await serving


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # the test's time limit ends it
        await asyncio.sleep(0.01)


async def test_a_thousand_requests_in_one_read_take_turns_with_others() -> None:
    async with served() as one:
        _, many = await one.open()
        reader, writer = await one.open()
        with longest_turn() as longest:
            many.write(b"GET /many HTTP/1.1\r\n\r\n" * 3000)
            await until(lambda: bool(one.app.paths))
            writer.write(head("GET", "/one"))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert one.app.paths.index("/one") < 300
        assert longest[0] < longest_allowed_s()
        await until(lambda: len(one.app.paths) == 3001)


async def test_a_body_of_tiny_chunks_takes_turns() -> None:
    async with served() as one:
        reader, writer = await one.open()
        writer.write(head("POST", "/", "transfer-encoding: chunked"))
        with longest_turn() as longest:
            writer.write(b"1\r\na\r\n" * 60_000 + b"0\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert longest[0] < longest_allowed_s()
        assert one.app.num_body_bytes >= 59_000


@pytest.mark.parametrize("then", [b"", b"connection: close"])
async def test_who_takes_no_answer_is_hung_up_on(then: bytes) -> None:
    limits = ConnectionLimits(client_timeout_s=0.3, idle_timeout_s=0.3)
    async with served(limits) as one:
        with socket.create_connection(one.address) as client:
            client.sendall(head("GET", "/large", *([then.decode()] if then else [])))
            await until(lambda: len(one.connections) == 1)
            await until(lambda: len(one.connections) == 0)


async def test_who_takes_an_answer_slowly_gets_all_of_it() -> None:
    limits = ConnectionLimits(client_timeout_s=0.5, idle_timeout_s=0.5)
    async with served(limits) as one:
        reader, writer = await one.open()
        writer.write(head("GET", "/large", "connection: close"))
        num_read = 0
        while data := await reader.read(256 * KIB):
            num_read += len(data)
            await asyncio.sleep(0.03)
        assert num_read > len(LARGE)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_answer_is_whole_when_the_server_ends_in_the_same_turn(method: str) -> None:
    async with served() as one:
        reader, writer = await one.open()
        await until(lambda: bool(one.server.server_state.connections))
        [protocol] = one.server.server_state.connections
        one.app.when_answered = protocol.shutdown
        writer.write(head(method, "/last"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")


def frame(opcode: int, data: bytes, *, is_last: bool = True) -> bytes:
    """A frame of a client, masked by zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xff" + struct.pack(">Q", len(data))
    return bytes([opcode | (0x80 if is_last else 0)]) + size + bytes(4) + data


async def open_websocket(one: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await one.open()
    writer.write(
        head("GET", "/", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13",
             "sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==")
    )  # fmt: skip
    answered = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in answered
    return reader, writer


async def test_tiny_frames_take_turns_and_wait_until_they_are_taken() -> None:
    async with served() as one:
        _, writer = await open_websocket(one)
        with longest_turn() as longest:
            writer.write(frame(2, b"a") * 20_000)
            await asyncio.sleep(0.1)
            one.app.may_take.set()
            await until(lambda: len(one.app.taken) == 20_000)
        assert longest[0] < longest_allowed_s()


async def test_pings_are_not_answered_to_who_does_not_read() -> None:
    async with served() as one:
        _, writer = await open_websocket(one)
        one.app.may_take.set()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        num_sent, pings = 0, frame(9, bytes(100)) * 1000
        while num_sent < 64 * MIB:
            writer.write(pings)
            num_sent += len(pings)
            try:
                await asyncio.wait_for(writer.drain(), 0.5)
            except TimeoutError:
                break
        assert num_sent < 64 * MIB
        [protocol] = one.server.server_state.connections
        assert protocol.transport.get_write_buffer_size() < MIB  # type: ignore[union-attr]


async def test_a_message_of_endless_fragments_is_refused() -> None:
    async with served() as one:
        reader, writer = await open_websocket(one)
        one.app.may_take.set()
        writer.write(frame(2, b"a", is_last=False) + frame(0, b"", is_last=False) * 20_000)
        closing = await reader.readexactly(4)
        assert (closing[0], struct.unpack(">H", closing[2:])[0]) == (0x88, 1009)
        await one.app.has_ended.wait()


async def test_large_messages_are_counted_until_they_were_worked_on() -> None:
    async with served(max_held_bytes=10 * MIB) as one:
        url = f"ws://127.0.0.1:{one.address[1]}/"
        whole = frame(2, bytes(8 * MIB))
        _, first = await open_websocket(one)
        first.write(whole[:-1])
        await until(lambda: one.held.num_bytes >= 8 * MIB - 64 * KIB)
        async with connect_websocket(url, max_size=None) as second:
            with suppress(websockets.ConnectionClosed):
                await second.send(bytes(8 * MIB))
            await second.wait_closed()
            assert second.close_code == 1013
        one.app.may_take.set()
        first.write(whole[-1:])
        await until(lambda: one.app.taken == [8 * MIB])
        await until(lambda: one.held.num_bytes == 0)


async def test_nobody_is_offered_compression() -> None:
    async with served() as one:
        async with connect_websocket(f"ws://127.0.0.1:{one.address[1]}/") as client:
            assert not client.protocol.extensions
        one.app.may_take.set()
