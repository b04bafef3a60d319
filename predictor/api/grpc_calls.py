"""What each gRPC call has: an id, its errors from the one table, metrics, a log line, a span."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc  # type: ignore[import-untyped]

from predictor import tracing
from predictor.api.errors import error_headers, to_asr_error
from predictor.api.request_line import REFUSALS_A_SECOND, request_id_of, trace_of
from predictor.errors import AsrError, DeadlineExceeded, Overloaded, RetryableError
from predictor.logs import LineBudget, noting, request_id_var
from predictor.metrics import CLIENT_CLOSED_REQUEST, Metrics

logger = logging.getLogger("predictor.access")

Context = Any  # grpc.aio.ServicerContext, which is untyped
Metadata = tuple[tuple[str, str], ...]
_PROTOCOL: Final = "grpc"


class Places:
    """So many calls of some kind at once."""

    def __init__(self, limit: int, what: str, setting: str = "") -> None:
        """`what` are counted, "gRPC streams", say, by a `setting` or else by us."""
        self._limit = limit
        self._what = what
        self._named = f"limit {setting}" if setting else "limit"
        self._num_taken = 0

    def check(self) -> None:
        """Raises Overloaded when all are taken."""
        if self._num_taken >= self._limit:
            raise Overloaded(
                f"{self._num_taken} {self._what} are open, the {self._named} is {self._limit}",
                retry_after_s=5,
            )

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One of them. Raises Overloaded."""
        self.check()
        self._num_taken += 1
        try:
            yield
        finally:
            self._num_taken -= 1


@dataclass(slots=True)
class OneCall:
    """A call that began."""

    context: Context
    headers: dict[str, str]
    names: Metadata  # the request's id and the model's
    is_named: bool = False

    async def name(self) -> None:
        """Send the names before the answer. Not earlier: once gRPC's clients have seen any of an
        answer they never try again, whatever the call ends with. An error takes them with it."""
        self.is_named = True
        await self.context.send_initial_metadata(self.names)


class Calls:
    """Around every call that the model works for."""

    def __init__(self, metrics: Metrics, model_identity: Callable[[], str | None]) -> None:
        """`model_identity`: digest of the weights; None while they are loading."""
        self._metrics = metrics
        self._model_identity = model_identity
        self._budget = LineBudget(REFUSALS_A_SECOND)
        spec = Overloaded.spec
        self._refused = (
            metrics.requests.labels(protocol=_PROTOCOL, code=str(spec.http_status)),
            metrics.errors.labels(protocol=_PROTOCOL, error=spec.code),
            metrics.request_seconds.labels(protocol=_PROTOCOL),
        )

    @asynccontextmanager
    async def one(
        self, context: Context, method: str, timeout_s: float | None = None
    ) -> AsyncIterator[OneCall]:
        """A call, ended after `timeout_s`; what the block raises becomes an AsrError."""
        headers = text_metadata(context.invocation_metadata())
        request_id = request_id_of(headers.get("x-request-id"))
        call = OneCall(context, headers, self._names(request_id))
        stack = ExitStack()
        token = request_id_var.set(request_id)
        noted = stack.enter_context(noting())
        opened = stack.enter_context(tracing.grpc_call(method, headers))
        if trace_id := trace_of(headers.get("traceparent")) or tracing.trace_id():
            noted["trace_id"] = trace_id
        started, status = time.monotonic(), CLIENT_CLOSED_REQUEST
        in_flight = self._metrics.requests_in_flight.labels(protocol=_PROTOCOL)
        in_flight.inc()
        try:
            async with _within(timeout_s):
                yield call
            status = 200
        except Exception as exc:  # noqa: BLE001  the table has a row for everything else
            error = to_asr_error(exc)
            if not call.is_named:
                context.set_trailing_metadata(call.names)
            status = error.spec.http_status
            noted["error"] = error.spec.code
            tracing.failed(opened, error.spec.code)
            self._metrics.errors.labels(protocol=_PROTOCOL, error=error.spec.code).inc()
            raise error from None
        finally:
            elapsed_s = time.monotonic() - started
            _log(status, elapsed_s, noted)
            in_flight.dec()
            self._metrics.requests.labels(protocol=_PROTOCOL, code=str(status)).inc()
            self._metrics.request_seconds.labels(protocol=_PROTOCOL).observe(elapsed_s)
            stack.close()
            request_id_var.reset(token)

    @asynccontextmanager
    async def question(self, context: Context) -> AsyncIterator[OneCall]:
        """A call that the model does not work for: neither counted nor logged."""
        headers = text_metadata(context.invocation_metadata())
        request_id = request_id_of(headers.get("x-request-id"))
        call = OneCall(context, headers, self._names(request_id))
        token = request_id_var.set(request_id)
        try:
            yield call
        except Exception as exc:  # noqa: BLE001  the table has a row for everything else
            context.set_trailing_metadata(call.names)
            raise to_asr_error(exc) from None
        finally:
            request_id_var.reset(token)

    def refused(
        self, headers: Mapping[str, str], error: Overloaded, noted: dict[str, object]
    ) -> Metadata:
        """Count a call that was refused before it began, and log some; the trailing metadata."""
        request_id = request_id_of(headers.get("x-request-id"))
        left_out = self._budget.take()
        if left_out is not None:
            noted |= {"error": error.spec.code, **left_out}
            if trace_id := trace_of(headers.get("traceparent")):
                noted["trace_id"] = trace_id
            token = request_id_var.set(request_id)
            _log(error.spec.http_status, 0.0, noted)
            request_id_var.reset(token)
        requests, errors, seconds = self._refused
        requests.inc()
        errors.inc()
        seconds.observe(0.0)
        return (*self._names(request_id), *error_metadata(error))

    def _names(self, request_id: str) -> Metadata:
        digest = self._model_identity()
        model = (("x-model-identity", digest),) if digest else ()
        return (("x-request-id", request_id), *model)


def text_metadata(metadata: Any) -> dict[str, str]:
    """A call's metadata as headers."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def error_metadata(error: AsrError) -> Metadata:
    """Trailing metadata that goes with an error's code."""
    found = [("error-code", error.spec.code), *error_headers(error).items()]
    if isinstance(error, RetryableError):  # how long gRPC's own clients wait, where they retry
        found.append(("grpc-retry-pushback-ms", str(1000 * error.retry_after_s)))
    return tuple(found)


@asynccontextmanager
async def _within(timeout_s: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"not within {timeout_s:g} s") from error


async def abort(context: Context, error: AsrError) -> NoReturn:
    """End a call with an error of the table."""
    trailing = (*context.trailing_metadata(), *error_metadata(error))
    await context.abort(getattr(grpc.StatusCode, error.spec.grpc_code), error.message, trailing)
    raise AssertionError("abort raises")


def _log(status: int, elapsed_s: float, noted: Mapping[str, object]) -> None:
    fields = {"protocol": _PROTOCOL, "status": status, "elapsed_s": round(elapsed_s, 4), **noted}
    logger.info("request", extra={"fields": fields})
