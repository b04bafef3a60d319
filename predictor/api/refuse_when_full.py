"""The cheapest answer there is: a full server refuses before anything else is done for a request.

At many times what a server can bear nearly all requests are refused, and what a refusal costs is
taken from those that are answered. So this stands outside of the other middleware, and passes on
whatever is not as plain as that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.api.auth import KeyRing
from predictor.api.connections import RESERVE_KEY
from predictor.api.errors import error_body, error_headers, protocol_of, speaks_openai
from predictor.api.request_line import (
    REFUSALS_A_SECOND,
    log_request,
    request_id_of,
    trace_of,
)
from predictor.errors import Overloaded, Unauthorized
from predictor.logs import LineBudget, noting, request_id_var
from predictor.metrics import Metrics

# Whoever still sends would not read an answer; so much has mostly come in with the head.
_SMALL_BODY_BYTES: Final = 256 * 1024
_HEARS: Final = re.compile(
    r"(:predict|/infer|/transcriptions|/alignments|/completions|/recognize)$"
)


class RefuseWhenFull:
    """Refuses what would be refused anyway before its body is read, which is most of the work."""

    def __init__(
        self,
        app: ASGIApp,
        check_room: Callable[[], None],
        keys: KeyRing,
        metrics: Metrics,
        model_identity: Callable[[], str | None],
    ) -> None:
        self.app = app
        self.check_room = check_room  # raises Overloaded
        self.keys = keys
        self.metrics = metrics
        self.model_identity = model_identity
        self._budget = LineBudget(REFUSALS_A_SECOND)
        self._counters: dict[str, tuple[Any, Any, Any]] = {}  # of a protocol; found once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope)
        if error is not None:
            headers = Headers(scope=scope)
            with noting() as noted:
                try:
                    self.keys.check(headers)  # who has none is told so, full or not
                except Unauthorized:
                    pass
                else:
                    await self._refuse(scope, send, headers, error, noted)
                    return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Overloaded | None:
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or not _HEARS.search(scope["path"])
            or scope.get(RESERVE_KEY)
        ):
            return None
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if not length.isdigit() or int(length[:19]) > _SMALL_BODY_BYTES:
            return None
        try:
            self.check_room()
        except Overloaded as error:
            return error
        return None

    async def _refuse(
        self,
        scope: Scope,
        send: Send,
        headers: Headers,
        error: Overloaded,
        noted: dict[str, object],
    ) -> None:
        request_id = request_id_of(headers.get("x-request-id"))
        token = request_id_var.set(request_id)
        try:
            body = orjson.dumps(
                error_body(error, openai=speaks_openai(scope["path"])),
                option=orjson.OPT_APPEND_NEWLINE,
            )
            self._count(scope)
            left_out = self._budget.take()
            if left_out is not None:
                noted.update(left_out)
                if trace_id := trace_of(headers.get("traceparent")):
                    noted["trace_id"] = trace_id
                log_request(scope, error.spec.http_status, 0.0, error, noted)
        finally:
            request_id_var.reset(token)
        answer = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": request_id,
            **error_headers(error),
        }
        if digest := self.model_identity():
            answer["x-model-identity"] = digest
        raw = [(name.encode(), value.encode()) for name, value in answer.items()]
        status = error.spec.http_status
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def _count(self, scope: Scope) -> None:
        protocol = protocol_of(scope["path"])
        if protocol is None:
            return
        if protocol not in self._counters:
            spec = Overloaded.spec
            self._counters[protocol] = (
                self.metrics.requests.labels(protocol=protocol, code=str(spec.http_status)),
                self.metrics.errors.labels(protocol=protocol, error=spec.code),
                self.metrics.request_seconds.labels(protocol=protocol),
            )
        requests, errors, seconds = self._counters[protocol]
        requests.inc()
        errors.inc()
        seconds.observe(0.0)
