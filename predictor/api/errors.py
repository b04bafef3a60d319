"""From any exception to the error table, and from the table to each protocol's body.

An exception that is not in the table becomes a 500 that says a request id and nothing else; the
log has the rest under the same id.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from kserve import errors as kserve_errors
from starlette.exceptions import HTTPException
from starlette.responses import Response

from predictor.api.json_answer import json_answer
from predictor.errors import (
    AsrError,
    ErrorSpec,
    InternalError,
    InvalidInput,
    NotFound,
    NotReady,
    RetryableError,
    Unauthorized,
)
from predictor.logs import request_id_var

logger = logging.getLogger(__name__)

ERROR_KEY = "asr.error"  # where a handler leaves the error it answered with, in the ASGI scope
_PREFIXES = {
    "/v1/audio": "openai",
    "/v1/chat": "openai",
    "/v1/jobs": "openai",
    "/v1/realtime": "openai",
    "/openai": "openai",
    "/v1": "v1",
    "/v2": "v2",
    "/api/v1/recognize": "recognize",
}


class MethodNotAllowed(AsrError):
    """The route exists, but not for this method; `allow` are the methods it takes."""

    spec = ErrorSpec(405, "UNIMPLEMENTED", "invalid_request_error", "method_not_allowed")

    def __init__(self, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class Closed(AsrError):
    """A route of the protocol that this server keeps closed to callers."""

    spec = ErrorSpec(403, "PERMISSION_DENIED", "permission_error", "closed")


def to_asr_error(exc: BaseException) -> AsrError:
    """The row of the error table for any exception; an unknown one is logged with its traceback."""
    if isinstance(exc, InternalError):
        logger.error("the engine failed a sequence", extra={"fields": {"sequence": exc.request_id}})
        return InternalError(request_id_var.get())
    if isinstance(exc, AsrError):
        return exc
    if isinstance(exc, kserve_errors.InvalidInput):
        return InvalidInput(str(exc))
    if isinstance(exc, kserve_errors.ModelNotFound):
        return NotFound(str(exc))
    if isinstance(exc, kserve_errors.ModelNotReady | kserve_errors.ServerNotReady):
        return NotReady(str(exc))
    if isinstance(exc, RequestValidationError):
        places = sorted({".".join(map(str, error["loc"])) for error in exc.errors()})
        return InvalidInput(f"bad value for {', '.join(places)}")  # never the value: maybe audio
    if isinstance(exc, HTTPException):
        return _of_http(exc)
    request_id = request_id_var.get()
    logger.error("unexpected error", exc_info=exc, extra={"fields": {"error": "internal_error"}})
    return InternalError(request_id)


def _of_http(exc: HTTPException) -> AsrError:
    """For what the router itself raises."""
    if exc.status_code == 404:
        return NotFound("no such route")
    if exc.status_code == 405:
        allow = (exc.headers or {}).get("Allow", "")
        return MethodNotAllowed("method not allowed on this route", allow=allow)
    return InvalidInput(str(exc.detail))


def protocol_of(path: str) -> str | None:
    """The protocol a path belongs to, one of metrics.PROTOCOLS; None for health and metrics."""
    for prefix, protocol in _PREFIXES.items():
        if path == prefix or path.startswith(prefix + "/"):
            return protocol
    return None


def speaks_openai(path: str) -> bool:
    """Whether errors on this path have OpenAI's body."""
    return protocol_of(path) == "openai"


def answer_error(scope: MutableMapping[str, Any], exc: BaseException) -> AsrError:
    """The table's error for `exc`, noted in the scope for metrics and the access log.

    Without what led to it: the connection keeps the scope until its next request, and a traceback
    keeps every frame it names, with the body in it.
    """
    error = to_asr_error(exc)
    error.__traceback__ = error.__cause__ = error.__context__ = None
    scope[ERROR_KEY] = error
    return error


def error_body(error: AsrError, *, openai: bool) -> dict[str, object]:
    """JSON of an error: OpenAI's form, or a flat one whose `error` is KServe's."""
    param = error.field if isinstance(error, InvalidInput) else None
    if openai:
        return {
            "error": {
                "message": error.message,
                "type": error.spec.openai_type,
                "param": param,
                "code": error.spec.code,
            }
        }
    body: dict[str, object] = {"error": error.message, "code": error.spec.code}
    if isinstance(error, InvalidInput):
        details = {"field": param, "limit": error.limit, "index": error.index}
        body.update({key: value for key, value in details.items() if value is not None})
    if request_id := request_id_var.get():
        body["request_id"] = request_id
    return body


def error_headers(error: AsrError) -> dict[str, str]:
    """Headers that go with the status."""
    if isinstance(error, RetryableError):
        return {"retry-after": str(error.retry_after_s)}
    if isinstance(error, MethodNotAllowed) and error.allow:
        return {"allow": error.allow}
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    return {}


def error_response(error: AsrError, *, openai: bool) -> Response:
    """The HTTP answer for an error."""
    return json_answer(
        error_body(error, openai=openai), error.spec.http_status, error_headers(error)
    )
