"""A gRPC call's message: read when there is room for it, since gRPC puts it together in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from predictor.api.held_bytes import HeldBytes
from predictor.errors import AsrError, InvalidInput, TooSlow

SMALL_MESSAGE_BYTES: Final = 64 * 1024  # of all methods but ModelInfer

Context = Any  # grpc.aio.ServicerContext, which is untyped


class Message:
    """Of the calls of one method.

    Every method is served as a stream of requests of which one is read: that looks the same on the
    wire, and leaves it to us when a message may come in.
    """

    def __init__(self, held: HeldBytes, max_bytes: int, timeout_s: float) -> None:
        """`max_bytes` are kept free for each; `timeout_s`: for room, and then for the message."""
        self._held = held
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def read_at_once(self, context: Context) -> bytes | None:
        """The message, None when there is no room for it now, or it does not come or is large."""
        if self._held.num_bytes + self._max_bytes > self._held.limit:
            return None
        try:
            async with self.read(context) as data:
                return data if len(data) <= SMALL_MESSAGE_BYTES else None
        except AsrError:
            return None

    @asynccontextmanager
    async def read(self, context: Context) -> AsyncIterator[bytes]:
        """The message; its bytes count as held while the block runs.

        Raises Overloaded, TooSlow, InvalidInput.
        """
        async with self._held.room(self._max_bytes, self._timeout_s) as hold:
            try:
                async with asyncio.timeout(self._timeout_s):
                    data = await context.read()
            except TimeoutError as error:
                raise TooSlow(f"message: not here within {self._timeout_s:g} s") from error
            if not isinstance(data, bytes):
                raise InvalidInput("message: the call holds none", field="message")
            hold(len(data))
            yield data
