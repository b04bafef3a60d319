"""What one connection and all of them may do before a request is understood.

uvicorn's protocol on httptools sets no bounds to heads, pipelines or waiting, and drops the body of
a request that offers an upgrade. This one bounds each, and keeps a few places for probes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from predictor.api.descriptors import RESERVED
from predictor.api.errors import ERROR_KEY, error_body, speaks_openai
from predictor.api.handshake import Handshake
from predictor.api.one_write import HeadWithBody
from predictor.api.request_head import END_OF_HEAD, check_head, without_offers
from predictor.errors import AsrError, HeadTooLarge, InvalidInput, TooSlow

logger = logging.getLogger(__name__)

BEGAN_KEY: Final = "asr.began_s"  # in the scope: time.monotonic() of the head's first byte
RESERVE_KEY: Final = "asr.is_reserve"  # in the scope: the connection is one too many
_CHUNKED_BYTES: Final = 8 * 1024  # of a body in chunks, which may be tiny, parsed at once
_PHRASES: Final = {400: b"Bad Request", 408: b"Request Timeout",
                   431: b"Request Header Fields Too Large"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of the HTTP listener."""

    max_connections: int = 1000  # further ones are answered probes, and 503 else
    num_reserved: int = RESERVED  # places for those
    max_head_bytes: int = 32 * 1024
    client_timeout_s: float = 10.0  # from the first byte of a head to its last
    idle_timeout_s: float = 65.0  # longer than the proxies in front, so that they close first


class Connections:
    """All connections of a listener, the oldest first."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[GuardedProtocol | Handshake, None] = {}
        self._has_warned = False

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, **uvicorns: Any) -> GuardedProtocol:
        """What uvicorn calls for each connection."""
        return GuardedProtocol(self, **uvicorns)

    def add(self, connection: GuardedProtocol | Handshake) -> bool:
        """Whether it is one too many; then the oldest that does nothing may have to go."""
        self._open[connection] = None
        is_reserve = len(self._open) > self.limits.max_connections
        if is_reserve and not self._has_warned:
            self._has_warned = True  # once: an attack must not fill the log as well
            logger.warning(
                "out of connections: further ones are answered probes only",
                extra={"fields": {"limit": self.limits.max_connections}},
            )
        if len(self._open) > self.limits.max_connections + self.limits.num_reserved:
            oldest = next((c for c in self._open if c.is_idle and c is not connection), None)
            (oldest or connection).abort()
        return is_reserve

    def remove(self, connection: GuardedProtocol | Handshake) -> None:
        """It ended, or became a WebSocket."""
        self._open.pop(connection, None)


class _Flow(FlowControl):
    """Reads nothing while what came in waits for its turn, whoever asks to."""

    def __init__(self, transport: asyncio.Transport, must_wait: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._must_wait = must_wait

    def resume_reading(self) -> None:
        if not self._must_wait():
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """One connection; the head of a request is read whole before it is parsed.

    The parser gets one request at a time, and of a body in chunks a few kB: one read of the socket
    may hold thousands of either, and all of them at once would hold the loop.
    """

    def __init__(self, all_connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._all = all_connections
        self._limits = all_connections.limits
        self._unread = bytearray()  # what came in and was not given to the parser
        self._num_searched = 0  # of it, for the end of a head
        self._is_turn_due = False  # to read more of it
        self._is_between = True  # no request is being parsed
        self._num_left: int | None = None  # bytes of the body that are still to come, if it says
        self._num_extra_bytes = 0  # of the request being parsed, besides its body
        self._num_body_bytes = 0
        self._head_began_s = 0.0
        self._is_reserve = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _must_wait(self) -> bool:
        """Whether another request has come in before the answer to this one has gone."""
        return self._is_between and bool(self._unread) and not self.is_idle

    def abort(self) -> None:
        """Close it without another word."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, lambda: self._is_turn_due or self._must_wait)
        self._set_timer(self._limits.idle_timeout_s, self.timeout_keep_alive_handler)
        self._is_reserve = self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None, self._too_slow)
        self._set_write_timer(None)
        self._unread.clear()
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        num_left = 0 if self._is_between else self._num_left or 0
        if num_left and not self._unread and not self.transport.is_closing():  # a body: not copied
            part = data if len(data) <= num_left else data[:num_left]
            self._parse(part)
            data = data[len(part) :]
        self._unread += data
        if not self._is_turn_due:
            self._read_on()

    def _read_on(self) -> None:
        """Give the parser what it may have now; the rest waits for another turn of the loop, or
        for the answer to a request before it."""
        self._is_turn_due = False
        while self._unread and not self.transport.is_closing():
            if self._is_between:
                if not self.is_idle:  # the next one may be no good, and cost this one its answer
                    self.flow.pause_reading()
                    break
                if not self._parse_head():
                    break
                continue
            size = len(self._unread)
            size = min(size, _CHUNKED_BYTES if self._num_left is None else self._num_left)
            with memoryview(self._unread)[: max(1, size)] as part:
                self._parse(part)
            del self._unread[: max(1, size)]
            if self._num_left is None and self._unread:
                self._take_a_turn()
                return
        is_full = not self.is_idle and len(self.cycle.body) > HIGH_WATER_LIMIT
        if not self.transport.is_closing() and not is_full:
            self.flow.resume_reading()

    def _take_a_turn(self) -> None:
        if not self._is_turn_due and self._unread:
            self._is_turn_due = True
            self.flow.pause_reading()
            self.loop.call_soon(self._read_on)

    def _parse_head(self) -> bool:
        """Parse the next request's head; False when it is not whole, or refused."""
        is_first = not self._head_began_s
        self._head_began_s = self._head_began_s or time.monotonic()
        if self._unread[0] in b"\r\n":  # RFC 9112, 2.2
            del self._unread[: len(self._unread) - len(self._unread.lstrip(b"\r\n"))]
        end = self._unread.find(END_OF_HEAD, self._num_searched)
        if (end if end >= 0 else len(self._unread)) > self._limits.max_head_bytes:
            self._refuse(self._too_large())
            return False
        if end < 0:
            self._num_searched = max(0, len(self._unread) - len(END_OF_HEAD))
            if is_first:  # most heads come whole, and need no timer
                self._set_timer(self._limits.client_timeout_s, self._too_slow)
            return False
        self._set_timer(None, self._too_slow)
        self._num_searched = 0
        end += len(END_OF_HEAD)
        head = bytes(self._unread[:end])
        del self._unread[:end]
        try:
            check_head(head)
        except InvalidInput as error:
            self._refuse(error)
            return False
        return self._parse(without_offers(head))

    def _parse(self, part: bytes | memoryview) -> bool:
        self._num_extra_bytes += len(part)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._refuse(InvalidInput("upgrade: offered behind another request"))
            return False
        except httptools.HttpParserError:
            self._refuse(InvalidInput("not a valid HTTP request"))
            return False
        spare = self._limits.max_head_bytes + 16 * self._num_body_bytes  # chunks have sizes
        if not self._is_between and self._num_extra_bytes - self._num_body_bytes > spare:
            self._refuse(self._too_large())
            return False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_between = False
        self._num_extra_bytes = self._num_body_bytes = 0
        scope = cast(dict[str, Any], self.scope)
        scope[BEGAN_KEY] = self._head_began_s or time.monotonic()
        scope[RESERVE_KEY] = self._is_reserve
        self._head_began_s = 0.0

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.transport = cast(Any, HeadWithBody(self.transport, self.loop))
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._num_left = int(lengths[0][:19]) if lengths and lengths[0].isdigit() else None
        if self._is_reserve and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        if self._num_left is not None:
            self._num_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_between = True

    def on_response_complete(self) -> None:
        cast(Any, self.cycle.transport).flush()  # or what closes the connection now would lose it
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        else:
            self._take_a_turn()

    def handle_websocket_upgrade(self) -> None:
        self._set_timer(None, self._too_slow)
        self._set_write_timer(None)
        self._all.remove(self)
        super().handle_websocket_upgrade()
        early = bytes(self._unread)  # frames of a client that does not wait for the answer
        self._unread.clear()
        if early and not self.transport.is_closing():
            cast(asyncio.Protocol, self.transport.get_protocol()).data_received(early)

    def eof_received(self) -> None:
        """The client sends no more. Half of a request is answered; who sent a whole one and is to
        be answered has left, since a client that ends looks the same."""
        if not self._is_between and self.cycle is not None and self.cycle.more_body:
            left = "its last chunk" if self._num_left is None else f"{self._num_left} more bytes"
            self._refuse(InvalidInput(f"body: ended before {left} came in", field="body"))
        elif self._is_between and self._unread and self.is_idle:
            self._refuse(InvalidInput("head: ended before its empty line"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_write_timer(self._limits.idle_timeout_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._set_write_timer(None)

    def timeout_keep_alive_handler(self) -> None:
        if self.is_idle:
            self._close()

    def _too_large(self) -> AsrError:
        limit = self._limits.max_head_bytes
        return HeadTooLarge(f"head: more than {limit} bytes, the limit is {limit} bytes")

    def _too_slow(self) -> None:
        self._refuse(TooSlow(f"head: not here within {self._limits.client_timeout_s:g} s"))

    def _refuse(self, error: AsrError) -> None:
        """Answer what is no request, unless another answer is on its way, and close."""
        self._set_timer(None, self._too_slow)
        if self.transport.is_closing():
            return
        is_openai = False
        if not self.is_idle:
            if self.cycle.response_started or not self.cycle.more_body:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # it is its body that is no good: here is its answer
            scope = cast(dict[str, Any], self.cycle.scope)
            scope[ERROR_KEY] = error  # for its line in the log
            is_openai = speaks_openai(scope["path"])
        body, status = orjson.dumps(error_body(error, openai=is_openai)), error.spec.http_status
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        head = head % (status, _PHRASES[status], len(body))
        self.transport.write(head + b"connection: close\r\n\r\n" + body)
        self._close()

    def _close(self) -> None:
        """Once what was answered has been taken; a client that takes nothing does not keep it."""
        self.transport.close()
        self._set_write_timer(self._limits.client_timeout_s)

    def _set_timer(self, delay_s: float | None, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None else self.loop.call_later(delay_s, then)

    def _set_write_timer(self, delay_s: float | None) -> None:
        """Abort when nothing of the answer is taken for so long."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = None
        if delay_s is not None:
            size = self.transport.get_write_buffer_size()
            self._write_timer = self.loop.call_later(delay_s, self._look, size, delay_s)

    def _look(self, size_before: int, delay_s: float) -> None:
        if self.transport.get_write_buffer_size() >= size_before:
            self.transport.abort()
        else:
            self._set_write_timer(delay_s)
