"""What the engine's process does for its servers, seen from one of them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictor.engine import StepStats, build_engine
from predictor.engine.core import EngineCore
from predictor.engine.link.channel import Inbox, send_request
from predictor.engine.link.wire import Chunks, Submit
from predictor.engine.link.worker import Connection, Switchboard, describe
from tests.engine.asking import OPTIONS, Known, until


class Serving:
    """A switchboard with a core of its own, without a pulse, and a server that is connected."""

    def __init__(self, checkpoint: Path, address: Path) -> None:
        self._parent, self._child = socket.socketpair()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen()
        self.switchboard = Switchboard(self._listener, self._child)
        self.rests = threading.Event()
        self.core: EngineCore = build_engine(checkpoint, "cpu", "float32", OPTIONS, self._observe)
        self.core.start()
        loaded = describe(self.core, "cpu", "float32")
        self._thread = threading.Thread(
            target=self.switchboard.serve, args=(self.core, loaded, 1e6), daemon=True
        )
        self._thread.start()
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.connect(str(address))

    def _observe(self, step: StepStats) -> None:
        self.switchboard.observe(self.core, step)
        if step.num_running == step.num_waiting == 0:
            self.rests.set()

    async def connection(self) -> Connection:
        await until(lambda: bool(self.switchboard._connections))
        return self.switchboard._connections[0]

    def close(self) -> None:
        self._parent.close()
        self._thread.join()
        self.core.stop()
        board = self.switchboard
        for connection in board._connections:
            connection.close()
        ours = (self._child, self._listener, self.channel, board._rests, board._rest_began)
        for one in ours:  # a process of its own ends with all of them
            one.close()


@pytest.fixture
def serving(native: Path, tmp_path: Path, one_thread: None) -> Iterator[Serving]:
    made = Serving(native, tmp_path / "engine")
    yield made
    made.close()


async def test_a_server_that_was_busy_gets_the_last_tokens_though_nothing_else_happens(
    serving: Serving, known: list[Known]
) -> None:
    connection = await serving.connection()
    connection.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    send_request(serving.channel, Submit(1, known[4].request))
    assert await asyncio.to_thread(serving.rests.wait, 60)
    await until(lambda: not serving.switchboard._steps)  # the server was told of all
    assert connection.outbox.is_behind
    serving.channel.settimeout(30)
    inbox, tokens = Inbox(serving.channel), list[int]()
    while len(tokens) < len(known[4].tokens):
        for message in inbox.read() or []:
            chunks = message.items if isinstance(message, Chunks) else ()
            tokens += [token for _, chunk in chunks for token in chunk.token_ids]
    assert tuple(tokens) == known[4].tokens
