"""Who reads what an engine's process writes: a thread, or an event loop itself.

Where a loop reads, tokens for its streams need no thread's turn on their way to them, which costs a
request that comes alone more than all else on that way.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from predictor.engine.link.channel import Inbox
from predictor.engine.link.wire import Message
from predictor.engine.stream import running_loop

logger = logging.getLogger(__name__)


class Reader:
    """Hands what arrives to `take`, in one thread at a time."""

    def __init__(self, take: Callable[[list[Message]], None]) -> None:
        self._take = take
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_gone = threading.Event()  # while a loop reads: it need not any more
        self._stop: Callable[[], None] = lambda: None  # it reads; called in the loop

    def read_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let this loop read from the next message on, here and after each new connection."""
        self._loop = loop

    def until_gone(self, channel: socket.socket, inbox: Inbox) -> None:
        """In a thread of ours: returns when the other end has gone, whoever reads meanwhile."""
        with suppress(OSError):
            while (loop := self._loop) is None or not self._until_loop_saw_it(loop, channel, inbox):
                if (messages := inbox.read()) is None:
                    return
                self._take(messages)

    def _until_loop_saw_it(
        self, loop: asyncio.AbstractEventLoop, channel: socket.socket, inbox: Inbox
    ) -> bool:
        """False when the loop is closed."""
        gone = self._has_gone = threading.Event()
        # Not the channel itself: uvloop would keep it from waiting, for whoever writes to it too.
        arrived = select.epoll()
        arrived.register(channel, select.EPOLLIN)

        def begin() -> None:
            if not gone.is_set():
                loop.add_reader(arrived, read)

        def stop() -> None:
            loop.remove_reader(arrived)
            arrived.close()
            gone.set()

        def read() -> None:
            messages = None
            try:
                messages = inbox.read(waits=False)
                if messages:
                    self._take(messages)
            except OSError:
                messages = None
            except Exception:
                logger.exception("what the engine's process says makes no sense")
                messages = None
            if messages is None:
                stop()

        self._stop = stop
        try:
            loop.call_soon_threadsafe(begin)
        except RuntimeError:  # it is closed
            arrived.close()
            self._loop = None
            return False
        return gone.wait()

    def leave(self) -> None:
        """Once the channel is shut down: end `until_gone` where no loop turns that would see it."""
        loop = self._loop
        if loop is None or self._has_gone.is_set():
            return
        if loop.is_closed():
            self._has_gone.set()
        elif not loop.is_running() or loop is running_loop():
            self._stop()
