"""Every error a caller can see, and the one table that maps it to HTTP, gRPC and OpenAI codes.

AsrError
├── InvalidInput            400  a value is wrong; carries field, value and limit
│   ├── AudioError          400  the audio cannot be decoded, is empty or not finite
│   └── AudioTooLong        400  more seconds than the limit
├── Unauthorized            401
├── NotFound                404  unknown model or route
├── JobNotDone              409  a result is asked for that is not there
├── TooSlow                 408  the request did not come in as fast as it must
├── PayloadTooLarge         413  more bytes than the limit
├── UnsupportedMedia        415  a media type that is not accepted on this route
├── HeadTooLarge            431  more bytes before the body than the limit
├── Overloaded              429  the queue is full; carries retry_after_s
├── NotReady                503  still loading or shutting down; carries retry_after_s
├── DeadlineExceeded        504
└── InternalError           500  a request id and nothing else
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One row of the error table."""

    http_status: int
    grpc_code: str  # name of a member of grpc.StatusCode
    openai_type: str
    code: str  # stable machine-readable code, the same in every protocol


class AsrError(Exception):
    """Base of all errors that reach a caller; `message` is safe to show to anyone."""

    spec: ClassVar[ErrorSpec] = ErrorSpec(500, "INTERNAL", "server_error", "internal_error")

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(AsrError):
    """A value of the request is wrong. Names the field, the value given and the limit."""

    spec = ErrorSpec(400, "INVALID_ARGUMENT", "invalid_request_error", "invalid_input")

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        limit: object = None,
        index: int | None = None,
    ) -> None:
        super().__init__(message if index is None else f"item {index}: {message}")
        self.bare_message = message
        self.field = field
        self.value = value
        self.limit = limit
        self.index = index

    def at(self, index: int) -> InvalidInput:
        """The same error, naming the item of a batch it belongs to."""
        return type(self)(
            self.bare_message, field=self.field, value=self.value, limit=self.limit, index=index
        )

    def without_index(self) -> InvalidInput:
        """The same error of a request that has no items."""
        return type(self)(self.bare_message, field=self.field, value=self.value, limit=self.limit)


class AudioError(InvalidInput):
    """The bytes are no audio we can decode, hold no samples, or hold NaN or infinity."""

    spec = ErrorSpec(400, "INVALID_ARGUMENT", "invalid_request_error", "invalid_audio")


class AudioTooLong(InvalidInput):
    """The audio lasts longer than the configured limit (seconds)."""

    spec = ErrorSpec(400, "INVALID_ARGUMENT", "invalid_request_error", "audio_too_long")


class Unauthorized(AsrError):
    """No API key, or a wrong one."""

    spec = ErrorSpec(401, "UNAUTHENTICATED", "authentication_error", "invalid_api_key")


class NotFound(AsrError):
    """No such model or route."""

    spec = ErrorSpec(404, "NOT_FOUND", "invalid_request_error", "not_found")


class JobNotDone(AsrError):
    """The job has no result: it is not finished, or it failed."""

    spec = ErrorSpec(409, "FAILED_PRECONDITION", "invalid_request_error", "job_not_done")


class TooSlow(AsrError):
    """The request's head or body did not come in as fast as it must."""

    spec = ErrorSpec(408, "DEADLINE_EXCEEDED", "invalid_request_error", "request_timeout")


class HeadTooLarge(AsrError):
    """Request line and headers have more bytes than the limit."""

    spec = ErrorSpec(431, "RESOURCE_EXHAUSTED", "invalid_request_error", "head_too_large")


class PayloadTooLarge(InvalidInput):
    """The request body has more bytes than the limit."""

    spec = ErrorSpec(413, "RESOURCE_EXHAUSTED", "invalid_request_error", "payload_too_large")


class UnsupportedMedia(InvalidInput):
    """The media type is not accepted on this route."""

    spec = ErrorSpec(415, "INVALID_ARGUMENT", "invalid_request_error", "unsupported_media_type")


class RetryableError(AsrError):
    """The request was fine; the same request may succeed after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(RetryableError):
    """The bounded queue is full."""

    spec = ErrorSpec(429, "RESOURCE_EXHAUSTED", "rate_limit_error", "overloaded")


class NotReady(RetryableError):
    """The model is still loading, or the server is shutting down."""

    spec = ErrorSpec(503, "UNAVAILABLE", "server_error", "not_ready")


class DeadlineExceeded(AsrError):
    """The request did not finish within its time limit."""

    spec = ErrorSpec(504, "DEADLINE_EXCEEDED", "server_error", "deadline_exceeded")


class InternalError(AsrError):
    """Something broke on our side; the log has the details under the request id."""

    spec = ErrorSpec(500, "INTERNAL", "server_error", "internal_error")

    def __init__(self, request_id: str) -> None:
        super().__init__(f"internal error, request id {request_id}")
        self.request_id = request_id
