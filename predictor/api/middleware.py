"""What every HTTP request passes through, as plain ASGI: identity, limits, and leaving early.

Outermost first: Cors (in methods), RefuseWhenFull, RequestContext, Deadline, ReserveForProbes,
HeadAndOptions (in methods), RequireKey (in auth), BodyLimit, ClientGone; none buffers a body.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

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
from predictor.api.request_line import log_request, request_id_of, trace_of
from predictor.errors import (
    AsrError,
    DeadlineExceeded,
    NotReady,
)
from predictor.logs import noting, request_id_var
from predictor.metrics import CLIENT_CLOSED_REQUEST, Metrics

logger = logging.getLogger(__name__)

_PROBES = ("GET", "HEAD", "OPTIONS")
# A request's line is written while others wait for the engine: a client that asks one after another
# has sent its next request within a millisecond of an answer.
LOG_AFTER_S: Final = 0.01


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
        given = Headers(scope=scope)
        request_id = request_id_of(given.get("x-request-id"))
        token = request_id_var.set(request_id)
        stack = ExitStack()
        noted = stack.enter_context(noting())
        if trace_id := trace_of(given.get("traceparent")) or tracing.trace_id():
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
            said: AsrError | None = scope.get(ERROR_KEY)
            if status == CLIENT_CLOSED_REQUEST and said:
                status = said.spec.http_status  # the connection answered a body that is none
            self._count(protocol, status, elapsed_s, said)
            line = (scope, status, elapsed_s, said, noted)
            asyncio.get_running_loop().call_later(LOG_AFTER_S, log_request, *line)
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
        handler = asyncio.current_task()
        assert handler is not None
        gone = asyncio.Event()
        watcher: asyncio.Task[None] | None = None  # once the body was read

        async def app_receive() -> Message:
            nonlocal watcher
            if watcher is not None:
                await gone.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if not _has_more(message):
                watcher = asyncio.create_task(watch())
            return message

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            handler.cancel()

        try:
            await self.app(scope, app_receive, send)
        except asyncio.CancelledError:
            if not gone.is_set() or handler.cancelling() > 1:  # somebody else cancels as well
                raise
        finally:
            if watcher is not None:
                watcher.cancel()
            if gone.is_set():
                handler.uncancel()


def _has_more(message: Mapping[str, object]) -> bool:
    return message["type"] == "http.request" and bool(message.get("more_body", False))
