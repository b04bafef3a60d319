"""V2 over gRPC: KServe's servicer with our reader, and errors from the one table."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.servicer import InferenceServicer

from predictor import tracing
from predictor.api import v2
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.errors import Closed, error_headers, to_asr_error
from predictor.api.grpc_health import health_handler
from predictor.api.grpc_message import read_grpc
from predictor.api.held_bytes import HeldBytes
from predictor.api.live_grpc import serve_stream, stream_handler
from predictor.api.reading import off_loop
from predictor.api.realtime import LiveDoor
from predictor.api.request_line import request_id_of, trace_of
from predictor.errors import AsrError, DeadlineExceeded, InvalidInput, Overloaded, TooSlow
from predictor.logs import noting, request_id_var
from predictor.metrics import CLIENT_CLOSED_REQUEST, Metrics

logger = logging.getLogger("predictor.access")

_MAX_CALLS: Final = 1024  # at once; most wait for room
_MAX_STREAMS: Final = 128  # of one connection
_IDLE_MS: Final = 300_000
_SMALL_MESSAGE_BYTES: Final = 64 * 1024  # of all methods but ModelInfer
_SMALL_AT_ONCE: Final = 2  # messages read of those; a message may turn out to be large

Context = Any  # grpc.aio.ServicerContext, which is untyped


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """What calls may use."""

    max_message_bytes: int
    max_connections: int  # further ones are closed
    client_timeout_s: float  # for a message to come in, once it may
    request_timeout_s: float  # for a call
    shares_port: bool = False  # with other processes of this pod; else a port in use is an error


class AsrServicer(InferenceServicer):  # type: ignore[misc]  # KServe is untyped
    """Overrides what reads tensors, changes models, or could raise an error that has no code."""

    def __init__(
        self,
        dataplane: AsrDataPlane,
        repository: ClosedRepository,
        metrics: Metrics,
        live: LiveDoor,
        max_streams: int,
    ) -> None:
        super().__init__(dataplane, repository)
        self._dataplane = dataplane
        self._metrics = metrics
        self._keys = live.keys
        self._live = live
        self._max_streams = max_streams
        self._num_streams = 0

    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._dataplane.model.is_ready()

    async def ModelInfer(  # noqa: N802  the protocol's name
        self, message: Message, context: Context
    ) -> pb.ModelInferResponse:
        """Transcribe tensors."""
        async with self._request(context, counted="ModelInfer") as headers:
            self._keys.check(headers)
            self._dataplane.model.check_room()
            async with message.read(context) as data:
                request = await off_loop(len(data), lambda: read_grpc(data))
                name, max_items = request.model_name, self._dataplane.max_items
                await self._dataplane.get_model(name)
                call = await off_loop(len(data), lambda: v2.grpc_call(request, max_items))
                answer: pb.ModelInferResponse = await self._dataplane.call(name, call, headers)
                return answer

    async def ModelStreamInfer(  # noqa: N802  the protocol's name
        self, messages: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[Any]:
        """Live speech; see `live_grpc`."""
        try:
            async with self._request(context, counted="ModelStreamInfer") as headers:
                self._keys.check(headers)
                with self._stream():
                    async with aclosing(serve_stream(self._live, messages)) as responses:
                        async for response in responses:
                            yield response
        except AsrError as error:
            await _abort(context, error)

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """A place for a stream. gRPC puts messages together where nobody can count their bytes, so
        streams are counted instead. Raises Overloaded."""
        if self._num_streams >= self._max_streams:
            raise Overloaded(
                f"{self._num_streams} gRPC streams are open, the limit max_grpc_streams is "
                f"{self._max_streams}",
                retry_after_s=5,
            )
        self._num_streams += 1
        try:
            yield
        finally:
            self._num_streams -= 1

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Whether requests should be sent to the model."""
        async with self._request(context):
            return pb.ModelReadyResponse(ready=await self._dataplane.model_ready(request.name))

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs."""
        async with self._request(context):
            metadata = await self._dataplane.model_metadata(request.name)
            metadata.pop("properties", None)  # KServe's message has no place for them
            return pb.ModelMetadataResponse(**metadata)

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """Whether the engine's loop turns."""
        async with self._request(context):
            return pb.ServerLiveResponse(live=self._dataplane.model.alive())

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> NoReturn:
        """Closed."""
        async with self._request(context):
            raise Closed("models are not loaded or unloaded over the network")

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> NoReturn:
        """Closed."""
        async with self._request(context):
            raise Closed("models are not loaded or unloaded over the network")

    @asynccontextmanager
    async def _request(
        self, context: Context, *, counted: str = ""
    ) -> AsyncIterator[dict[str, str]]:
        """Id, errors, and for methods that are `counted`, metrics, log line and span around one
        call; gives its metadata as headers."""
        headers = {
            key: value
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        request_id = request_id_of(headers.get("x-request-id"))
        token = request_id_var.set(request_id)
        stack = ExitStack()
        noted = stack.enter_context(noting())
        opened = tracing.NO_SPAN
        if counted:
            opened = stack.enter_context(tracing.grpc_call(counted, headers))
        if trace_id := trace_of(headers.get("traceparent")) or tracing.trace_id():
            noted["trace_id"] = trace_id
        started, status = time.monotonic(), CLIENT_CLOSED_REQUEST
        if counted:
            self._metrics.requests_in_flight.labels(protocol="grpc").inc()
        try:
            initial = [("x-request-id", request_id)]
            if identity := self._dataplane.model.identity:
                initial.append(("x-model-identity", identity.digest))
            await context.send_initial_metadata(tuple(initial))
            yield headers
            status = 200
        except Exception as exc:  # noqa: BLE001  the table has a row for everything else
            error = to_asr_error(exc)
            status = error.spec.http_status
            tracing.failed(opened, error.spec.code)
            if counted:
                self._metrics.errors.labels(protocol="grpc", error=error.spec.code).inc()
            raise error from None
        finally:
            if counted:
                _log(status, time.monotonic() - started, noted)
                self._metrics.requests_in_flight.labels(protocol="grpc").dec()
                self._metrics.requests.labels(protocol="grpc", code=str(status)).inc()
                elapsed_s = time.monotonic() - started
                self._metrics.request_seconds.labels(protocol="grpc").observe(elapsed_s)
            stack.close()
            request_id_var.reset(token)


def _log(status: int, elapsed_s: float, noted: Mapping[str, object]) -> None:
    fields = {"protocol": "grpc", "status": status, "elapsed_s": round(elapsed_s, 4), **noted}
    logger.info("request", extra={"fields": fields})


async def _abort(context: Context, error: AsrError) -> NoReturn:
    trailing = (("error-code", error.spec.code), *error_headers(error).items())
    await context.abort(getattr(grpc.StatusCode, error.spec.grpc_code), error.message, trailing)
    raise AssertionError("abort raises")


class Message:
    """A call's message: read when there is room for it, since gRPC assembles it in memory.

    Every method is served as a stream of requests of which one is read: that looks the same on the
    wire, and leaves it to us when a message may come in.
    """

    def __init__(self, held: HeldBytes, limits: GrpcLimits) -> None:
        self._held = held
        self.limits = limits

    async def read_at_once(self, context: Context) -> bytes | None:
        """The message, None when there is no room for it now, or it does not come or is large."""
        if self._held.num_bytes + self.limits.max_message_bytes > self._held.limit:
            return None
        try:
            async with self.read(context) as data:
                return data if len(data) <= _SMALL_MESSAGE_BYTES else None
        except AsrError:
            return None

    @asynccontextmanager
    async def read(self, context: Context) -> AsyncIterator[bytes]:
        """The message; its bytes count as held while the block runs.

        Raises Overloaded, TooSlow, InvalidInput.
        """
        timeout_s = self.limits.client_timeout_s
        async with self._held.room(self.limits.max_message_bytes, timeout_s) as hold:
            try:
                async with asyncio.timeout(timeout_s):
                    data = await context.read()
            except TimeoutError as error:
                raise TooSlow(f"message: not here within {timeout_s:g} s") from error
            if not isinstance(data, bytes):
                raise InvalidInput("message: the call holds none", field="message")
            hold(len(data))
            yield data


def create_grpc_server(
    servicer: AsrServicer, held: HeldBytes, limits: GrpcLimits
) -> grpc.aio.Server:
    """A server without a port yet."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_send_message_length", limits.max_message_bytes),
            ("grpc.so_reuseport", int(limits.shares_port)),
            ("grpc.http2.bdp_probe", 0),  # windows stay small until a message may come in
            ("grpc.max_concurrent_streams", _MAX_STREAMS),
            ("grpc.max_connection_idle_ms", _IDLE_MS),
            ("grpc.max_allowed_incoming_connections", limits.max_connections),
            ("grpc.server_handshake_timeout_ms", round(1000 * limits.client_timeout_s)),
        ],
        maximum_concurrent_rpcs=_MAX_CALLS,
    )
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    # Small messages have room of their own, so that no upload holds up a question about the model.
    small = HeldBytes(_SMALL_AT_ONCE * limits.max_message_bytes)
    handlers = {
        method.name: _handler(servicer, method, Message(held, limits), Message(small, limits))
        for method in service.methods
    }
    generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
    stream = stream_handler(servicer.ModelStreamInfer)
    health = health_handler(servicer.is_ready, Message(small, limits).read_at_once)
    server.add_generic_rpc_handlers((generic, stream, health))
    return server


def _handler(servicer: AsrServicer, method: Any, infer: Message, other: Message) -> Any:
    """A method of the service as a stream of one request, within a time limit; `infer` reads the
    messages of ModelInfer, `other` those of all other methods."""
    limits = infer.limits
    answer = getattr(servicer, method.name)
    request_type = getattr(pb, method.input_type.name)
    response_type = getattr(pb, method.output_type.name)

    async def small(context: Context) -> Any:
        async with other.read(context) as data:
            if len(data) > _SMALL_MESSAGE_BYTES:
                raise InvalidInput(f"message: {len(data)} bytes", field="message")
            try:
                request = request_type.FromString(data)
            except DecodeError as error:
                raise InvalidInput(f"message: no {method.input_type.name}") from error
        return await answer(request, context)

    async def handle(_: object, context: Context) -> Any:
        error: AsrError
        try:
            async with asyncio.timeout(limits.request_timeout_s):
                if method.name == "ModelInfer":
                    return await answer(infer, context)
                return await small(context)
        except TimeoutError:
            error = DeadlineExceeded(f"not within {limits.request_timeout_s:g} s")
        except AsrError as exc:
            error = exc
        # gRPC keeps the exception that ends a call, that its traceback, and that the message.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return await _abort(context, error)

    return grpc.stream_unary_rpc_method_handler(handle, None, response_type.SerializeToString)
