"""What every HTTP request passes through, as plain ASGI: identity, limits, and leaving early.

Outermost first: RequestContext, Deadline, ReserveForProbes, RequireKey (in auth), RefuseWhenFull,
BodyLimit, ClientGone; none buffers a body.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import BinaryIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor import tracing
from predictor.api.connections import BEGAN_KEY, RESERVE_KEY
from predictor.api.errors import (
    ERROR_KEY,
    answer_error,
    error_response,
    protocol_of,
    speaks_openai,
)
from predictor.api.held_bytes import HeldBytes
from predictor.api.media import media_type
from predictor.api.reading import SPOOLING_KEY
from predictor.api.spool import Spool
from predictor.errors import (
    AsrError,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    PayloadTooLarge,
    TooSlow,
)
from predictor.logs import noting, request_id_var
from predictor.metrics import CLIENT_CLOSED_REQUEST, Metrics

logger = logging.getLogger("predictor.access")

_PROBES = ("GET", "HEAD", "OPTIONS")
_MIN_BYTES_PER_S = 4096  # of a body; a modem of 33.6 kbit/s
_SMALL_BODY_BYTES = 256 * 1024
_HEARS = re.compile(r"(:predict|/infer|/transcriptions|/alignments|/completions|/recognize)$")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id_of(given: str | None) -> str:
    """The caller's request id when it is safe to print, or a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


class RequestContext:
    """Gives each request its id, counts it, logs it, and answers what nobody else caught."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, model_identity: Callable[[], str | None]
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.model_identity = model_identity  # digest of the weights; None while they are loading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope).get("x-request-id"))
        token = request_id_var.set(request_id)
        stack = ExitStack()
        noted = stack.enter_context(noting())
        traceparent = Headers(scope=scope).get("traceparent")
        if trace_id := trace_of(traceparent) or tracing.trace_id():
            noted["trace_id"] = trace_id
        protocol = protocol_of(scope["path"]) if scope["method"] == "POST" else None
        started = time.monotonic()
        status = CLIENT_CLOSED_REQUEST

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if protocol and (digest := self.model_identity()):
                    headers["x-model-identity"] = digest
            await send(message)

        if protocol:
            self.metrics.requests_in_flight.labels(protocol=protocol).inc()
        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("the client left while its body was read")
        except Exception as exc:  # noqa: BLE001  the table has a row for everything else: 500
            error = answer_error(scope, exc)
            if status == CLIENT_CLOSED_REQUEST:
                response = error_response(error, openai=speaks_openai(scope["path"]))
                await response(scope, receive, send_with_id)
        finally:
            elapsed_s = time.monotonic() - started
            self._count(protocol, status, elapsed_s, scope.get(ERROR_KEY))
            _log(scope, status, elapsed_s, scope.get(ERROR_KEY), noted)
            stack.close()
            request_id_var.reset(token)

    def _count(
        self, protocol: str | None, status: int, elapsed_s: float, error: AsrError | None
    ) -> None:
        if protocol is None:
            return
        self.metrics.requests_in_flight.labels(protocol=protocol).dec()
        self.metrics.requests.labels(protocol=protocol, code=str(status)).inc()
        self.metrics.request_seconds.labels(protocol=protocol).observe(elapsed_s)
        if error is not None:
            self.metrics.errors.labels(protocol=protocol, error=error.spec.code).inc()


def trace_of(traceparent: str | None) -> str | None:
    """The trace's id of a W3C header, if it is one."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def _log(
    scope: Scope,
    status: int,
    elapsed_s: float,
    error: AsrError | None,
    noted: Mapping[str, object],
) -> None:
    fields: dict[str, object] = {
        "method": scope["method"],
        "path": scope["path"][:200],  # never the query: it may hold a context
        "status": status,
        "elapsed_s": round(elapsed_s, 4),
        **noted,
    }
    if error is not None:
        fields["error"] = error.spec.code
        if isinstance(error, InvalidInput) and error.field:
            fields["field"] = error.field
    level = logging.DEBUG if scope["method"] == "GET" and status < 400 else logging.INFO
    logger.log(level, "request", extra={"fields": fields})


class Deadline:
    """One time limit from the first byte of the head to the last byte of the answer."""

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self.app = app
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        spent_s = time.monotonic() - scope.get(BEGAN_KEY, time.monotonic())
        try:
            async with asyncio.timeout(self.timeout_s - spent_s):
                await self.app(scope, receive, send)
        except TimeoutError as error:
            raise DeadlineExceeded(f"not finished within {self.timeout_s:g} s") from error


class ReserveForProbes:
    """On a connection that is one too many, probes and metrics are answered, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get(RESERVE_KEY) and scope["method"] not in _PROBES:
            raise NotReady("out of connections, try again soon")
        await self.app(scope, receive, send)


class RefuseWhenFull:
    """Refuses what would be refused anyway before its body is read, which is most of the work; only
    where the body is small, since a client that is still sending would not read the answer."""

    def __init__(self, app: ASGIApp, check_room: Callable[[], None]) -> None:
        self.app = app
        self.check_room = check_room  # raises Overloaded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and _HEARS.search(scope["path"]):
            declared = Headers(scope=scope).get("content-length", "")
            if declared.isdigit() and int(declared[:19]) <= _SMALL_BODY_BYTES:
                self.check_room()
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses bodies above `max_body_bytes`: by their header at once, else while they come in.

    All bodies together may hold `held.limit` bytes of memory; past it new ones are told to wait.
    Recordings that a `spool` takes are bounded by it instead. A body must come in at
    `_MIN_BYTES_PER_S`, looked at every `client_timeout_s` that we wait.
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
        self._waited_s = 0.0  # since `_num_bytes_due` was set
        self._num_bytes_due = 0

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
        self._is_whole = not _has_more(message)
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
            if self.num_bytes < self._num_bytes_due:
                raise TooSlow(f"body: slower than {_MIN_BYTES_PER_S} bytes a second")
            self._waited_s = 0.0
            self._num_bytes_due = self.num_bytes + round(timeout_s * _MIN_BYTES_PER_S)
        return message


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


class ClientGone:
    """Cancels the handler when the client disconnects, which frees what it holds in the engine.

    ASGI only tells those who listen; a handler that waits for the engine does not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body_read, gone = asyncio.Event(), asyncio.Event()

        async def app_receive() -> Message:
            if body_read.is_set():
                await gone.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if not _has_more(message):
                body_read.set()
            return message

        async def watch() -> None:
            await body_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        handler = asyncio.ensure_future(self.app(scope, app_receive, send))
        watcher = asyncio.create_task(watch())
        try:
            await asyncio.wait({handler, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watcher.cancel()
            if not handler.done():
                handler.cancel()
            await asyncio.gather(handler, watcher, return_exceptions=True)
        if not handler.cancelled():
            handler.result()


def _has_more(message: Mapping[str, object]) -> bool:
    return message["type"] == "http.request" and bool(message.get("more_body", False))
