"""Bodies of requests on their way in: how large, how slow, and how much of them at once."""

from __future__ import annotations

import asyncio
import time
from typing import BinaryIO, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.api.errors import answer_error, error_response, speaks_openai
from predictor.api.held_bytes import HeldBytes
from predictor.api.media import media_type
from predictor.api.reading import SPOOLING_KEY
from predictor.api.spool import Spool
from predictor.errors import AsrError, PayloadTooLarge, TooSlow

_MIN_BYTES_PER_S: Final = 4096  # of a body; a modem of 33.6 kbit/s
# While bodies take more than half of their memory, one that holds much of it must go on faster: at
# the rate at which it would have come in within this time.
_MOST_HELD_S: Final = 60.0


class BodyLimit:
    """Refuses bodies above `max_body_bytes`: by their header at once, else while they come in.

    All bodies together may hold `held.limit` bytes of memory; past it new ones are told to wait.
    Recordings that a `spool` takes are bounded by it instead. A body must come in at
    `_MIN_BYTES_PER_S`, or at what `_MOST_HELD_S` asks; that is looked at each time that we have
    waited `client_timeout_s` for it, but for the first.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        held: HeldBytes,
        client_timeout_s: float,
        spool: Spool | None = None,
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.spool = spool
        self.held = held
        self.client_timeout_s = client_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(self, receive, self.spool if _is_recording(headers) else None)
        if body.spool is not None:
            scope[SPOOLING_KEY] = body
        declared = headers.get("content-length", "")

        is_started = False

        async def closing_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            if body.is_refused and message["type"] == "http.response.start":
                # The rest of the body is not wanted, so the connection cannot be used again.
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        try:
            if declared.isdigit():
                body.check_declared(int(declared[:19]))
            await self.app(scope, body.receive, closing_send)
        except AsrError as exc:
            if is_started or not body.is_refused:
                raise
            error = answer_error(scope, exc)
            response = error_response(error, openai=speaks_openai(scope["path"]))
            await response(scope, receive, closing_send)
        finally:
            body.forget()


def _is_recording(headers: Headers) -> bool:
    """Whether the body is one, or a form with one: JSON and tensors are read in memory."""
    kind = media_type(headers.get("content-type"))
    return kind == "multipart/form-data" or kind.startswith(("audio/", "video/"))


class _Body:
    """One body on its way in."""

    def __init__(self, limit: BodyLimit, receive: Receive, spool: Spool | None) -> None:
        self.num_bytes = 0
        self.is_refused = False
        self.spool = spool  # that may take it
        self._held = limit.held
        self._max_bytes = limit.max_body_bytes
        self._limit = limit
        self._receive = receive
        self._is_whole = False
        self._waited_s = 0.0  # for more of it, since there were `_num_bytes_before`
        self._num_bytes_before: int | None = None

    def check_declared(self, num_bytes: int) -> None:
        """By the header alone. Raises PayloadTooLarge, Overloaded."""
        held, max_bytes = self._held, self._max_bytes
        if self.spool is not None and num_bytes > self.spool.from_bytes:
            held, max_bytes = self.spool.held, self.spool.max_bytes
        try:
            _check(num_bytes, held, max_bytes, own=0)
        except AsrError:
            self.is_refused = True
            raise

    def begin_spooling(self) -> BinaryIO:
        """A file for the body, which no longer counts as memory. Raises OSError, Overloaded."""
        assert self.spool is not None
        file = self.spool.new_file()
        self._held.add(-self.num_bytes)
        self._held, self._max_bytes = self.spool.held, self.spool.max_bytes
        self._held.add(self.num_bytes)
        _check(self.num_bytes, self._held, self._max_bytes, own=self.num_bytes)
        return file

    @property
    def is_to_be_spooled(self) -> bool:
        """Whether it has become too large for memory."""
        return self.spool is not None and self.num_bytes > self.spool.from_bytes

    def forget(self) -> None:
        """The request has ended."""
        self._held.add(-self.num_bytes)

    async def receive(self) -> Message:
        """The next message. Raises TooSlow, PayloadTooLarge, Overloaded."""
        if self._is_whole:
            return await self._receive()  # waits for the client to leave
        try:
            message = await self._in_time()
            size = len(message.get("body", b""))
            self.num_bytes += size
            self._held.add(size)
            _check(self.num_bytes, self._held, self._max_bytes, own=self.num_bytes)
        except AsrError:
            self.is_refused = True
            raise
        self._is_whole = not message.get("more_body", False)
        return message

    async def _in_time(self) -> Message:
        timeout_s, began_s = self._limit.client_timeout_s, time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._receive()
        except TimeoutError as error:
            raise TooSlow(f"body: nothing came in for {timeout_s:g} s") from error
        self._waited_s += time.monotonic() - began_s
        if self._waited_s > timeout_s:
            if self._num_bytes_before is not None:
                self._check_pace(self._num_bytes_before)
            self._num_bytes_before, self._waited_s = self.num_bytes, 0.0
        return message

    def _check_pace(self, num_bytes_before: int) -> None:
        """At the end of a time of waiting. Raises TooSlow."""
        wanted = _MIN_BYTES_PER_S
        if self._held.num_bytes > self._held.limit / 2:
            wanted = max(wanted, round(num_bytes_before / _MOST_HELD_S))
        if self.num_bytes - num_bytes_before < wanted * self._waited_s:
            raise TooSlow(f"body: slower than {wanted} bytes a second")


def _check(num_bytes: int, held: HeldBytes, max_bytes: int, *, own: int) -> None:
    """Raises PayloadTooLarge for the body's own size, Overloaded for that of all together."""
    if num_bytes > max_bytes:
        raise PayloadTooLarge(
            f"body: {num_bytes} bytes or more, the limit is {max_bytes} bytes",
            field="body",
            value=num_bytes,
            limit=max_bytes,
        )
    held.check(num_bytes, own=own)
