"""What one connection and all of them may do before a request is understood.

uvicorn's protocol on httptools sets no bounds to heads, pipelines or waiting, and drops the body of
a request that offers an upgrade. This one bounds each, and keeps a few places for probes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import httptools
import orjson
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from predictor.api.errors import error_body
from predictor.errors import AsrError, HeadTooLarge, InvalidInput, TooSlow

logger = logging.getLogger(__name__)

BEGAN_KEY: Final = "asr.began_s"  # in the scope: time.monotonic() of the head's first byte
RESERVE_KEY: Final = "asr.is_reserve"  # in the scope: the connection is one too many
RESERVED: Final = 64  # connections for probes
DESCRIPTORS_KEPT: Final = 256  # for files, pipes, gRPC and the engine
_END_OF_HEAD: Final = b"\r\n\r\n"
# Offers to speak HTTP/2 or TLS from here on, which a server may ignore (RFC 9110, 7.8).
_UPGRADE: Final = re.compile(rb"(?im)^upgrade(?=[ \t]*:(?![ \t]*websocket))")
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


def fit_to_descriptors(max_connections: int) -> int:
    """Connections that the process has descriptors for; raises its soft limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + DESCRIPTORS_KEPT + RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            logger.warning(
                "fewer connections than max_connections: the limit of descriptors is low",
                extra={"fields": {"descriptors": soft}},
            )
            return max(1, soft - DESCRIPTORS_KEPT - RESERVED)
    return max_connections


class Connections:
    """All connections of a listener, the oldest first."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[GuardedProtocol, None] = {}
        self._has_warned = False

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, **uvicorns: Any) -> GuardedProtocol:
        """What uvicorn calls for each connection."""
        return GuardedProtocol(self, **uvicorns)

    def add(self, connection: GuardedProtocol) -> bool:
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

    def remove(self, connection: GuardedProtocol) -> None:
        """It ended, or became a WebSocket."""
        self._open.pop(connection, None)


class _Flow(FlowControl):
    """Reads nothing while requests wait in the connection's pipeline, whoever asks to."""

    def __init__(self, transport: asyncio.Transport, must_wait: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._must_wait = must_wait

    def resume_reading(self) -> None:
        if not self._must_wait():
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """One connection; the head of a request is read whole before it is parsed."""

    def __init__(self, all_connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._all = all_connections
        self._limits = all_connections.limits
        self._head = bytearray()  # of the next request, until it is whole
        self._is_between = True  # no request is being parsed
        self._num_extra_bytes = 0  # of the request being parsed, besides its body
        self._num_body_bytes = 0
        self._head_began_s = 0.0
        self._is_reserve = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def abort(self) -> None:
        """Close it without another word."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, lambda: bool(self.pipeline))
        self._set_timer(self._limits.idle_timeout_s, self._close_idle)
        self._is_reserve = self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None, self._close_idle)
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_between:
            whole = self._whole_head(data)
            if whole is None:
                return
            data = whole
        self._num_extra_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._refuse(InvalidInput("upgrade: offered behind another request"))
        except httptools.HttpParserError:
            self._refuse(InvalidInput("not a valid HTTP request"))
        else:
            spare = self._limits.max_head_bytes + 16 * self._num_body_bytes  # chunks have sizes
            if not self._is_between and self._num_extra_bytes - self._num_body_bytes > spare:
                self._refuse(self._too_large())

    def _whole_head(self, data: bytes) -> bytes | None:
        """What came in since the last request, once it holds a head."""
        self._unset_keepalive_if_required()
        if not self._head:
            self._head_began_s = time.monotonic()
            self._set_timer(self._limits.client_timeout_s, self._too_slow)
        searched = max(0, len(self._head) - len(_END_OF_HEAD))
        self._head += data
        del self._head[: len(self._head) - len(self._head.lstrip(b"\r\n"))]  # RFC 9112, 2.2
        end = self._head.find(_END_OF_HEAD, searched)
        if (end if end >= 0 else len(self._head)) > self._limits.max_head_bytes:
            self._refuse(self._too_large())
            return None
        if end < 0:
            return None
        self._set_timer(None, self._too_slow)
        head, rest = bytes(self._head[: end + 4]), bytes(self._head[end + 4 :])
        self._head.clear()
        return _UPGRADE.sub(b"x-ignored-upgrade", head) + rest

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_between = False
        self._num_extra_bytes = self._num_body_bytes = 0
        scope = cast(dict[str, Any], self.scope)
        scope[BEGAN_KEY] = self._head_began_s or time.monotonic()
        scope[RESERVE_KEY] = self._is_reserve
        self._head_began_s = 0.0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._is_reserve and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_between = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def handle_websocket_upgrade(self) -> None:
        self._set_timer(None, self._close_idle)
        self._all.remove(self)
        super().handle_websocket_upgrade()

    def _too_large(self) -> AsrError:
        limit = self._limits.max_head_bytes
        return HeadTooLarge(f"head: more than {limit} bytes, the limit is {limit} bytes")

    def _too_slow(self) -> None:
        self._refuse(TooSlow(f"head: not here within {self._limits.client_timeout_s:g} s"))

    def _close_idle(self) -> None:
        if self.is_idle:
            self.transport.close()

    def _refuse(self, error: AsrError) -> None:
        """Answer what is no request, unless another answer is on its way, and close."""
        self._set_timer(None, self._too_slow)
        if self.transport.is_closing():
            return
        if not self.is_idle:
            self.transport.abort()
            return
        body, status = orjson.dumps(error_body(error, openai=False)), error.spec.http_status
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        head = head % (status, _PHRASES[status], len(body))
        self.transport.write(head + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _set_timer(self, delay_s: float | None, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None else self.loop.call_later(delay_s, then)
