"""The head of an answer and what follows it at once in one write: one system call, one segment."""

from __future__ import annotations

import asyncio


class HeadWithBody:
    """What an answer is written to. The head waits for the body, for one turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None  # empty once it is written

    def write(self, data: bytes) -> None:
        """As of a transport."""
        if self._head is None:
            self._head = data
            self._loop.call_soon(self.flush)
            return
        head, self._head = self._head, b""
        self._transport.write(head + data if head else data)

    def flush(self) -> None:
        """Write a head that still waits: no body comes, or comes late."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """As of a transport, once all is written."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """As of a transport."""
        return self._transport.is_closing()
