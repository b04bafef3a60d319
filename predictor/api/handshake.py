"""TLS of a connection that is counted from its first packet on.

asyncio's servers tell nobody of a connection before its handshake is done: who never finishes one
would be no connection to anybody, and hold a descriptor for a minute. So connections are accepted
here, and counted while they shake hands.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ssl import SSLContext
from typing import Final, Protocol

logger = logging.getLogger(__name__)

_BACKLOG: Final = 2048
_AT_ONCE: Final = 64  # accepted in one turn of the loop
_WAIT_S: Final = 1.0  # when there are no descriptors


class Handshake:
    """A connection that does not speak TLS yet."""

    is_idle: Final = True  # so that it may have to go when there are too many

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def abort(self) -> None:
        """Close it without another word."""
        self._task.cancel()


class Counted(Protocol):
    """All connections of the listener, as a handshake sees them."""

    def add(self, connection: Handshake) -> bool:
        """Counts it; may abort it, or another."""

    def remove(self, connection: Handshake) -> None:
        """It has ended."""


class SecuredListener:
    """Accepts connections, and has TLS begun on each within `timeout_s`."""

    def __init__(self, counted: Counted, context: SSLContext, timeout_s: float) -> None:
        self._counted = counted
        self._context = context
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._has_warned = False

    def open(self, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """`make` gives the protocol of a connection that speaks TLS."""
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self._sockets.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener, make)

    def close(self) -> None:
        """Accept no more; handshakes under way end."""
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            loop.remove_reader(listener)
        self._sockets.clear()
        for task in self._tasks:
            task.cancel()

    def _accept(self, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors, no memory: not another try in each turn
                if not self._has_warned:
                    self._has_warned = True
                    logger.error("no connection can be accepted: %s", error)
                loop.remove_reader(listener)
                loop.call_later(_WAIT_S, self._go_on, listener, make)
                return
            connection.setblocking(False)
            task = loop.create_task(self._shake(connection, make))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _go_on(self, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        if listener in self._sockets:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener, make)

    async def _shake(self, connection: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        task = asyncio.current_task()
        assert task is not None
        handshake = Handshake(task)
        self._counted.add(handshake)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, connection, ssl=self._context, ssl_handshake_timeout=self._timeout_s
            )
        except OSError:  # TimeoutError, SSLError and resets are such
            connection.close()
        finally:
            self._counted.remove(handshake)
