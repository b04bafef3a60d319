"""V2 over gRPC: KServe's servicer with our reader, and errors from the one table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.servicer import InferenceServicer

from predictor.api import v2
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.errors import Closed
from predictor.api.grpc_calls import Calls, Context, OneCall, Places, abort
from predictor.api.grpc_health import health_handler
from predictor.api.grpc_message import read_grpc
from predictor.api.grpc_reading import SMALL_MESSAGE_BYTES, Message
from predictor.api.grpc_refuse import RefuseCallWhenFull
from predictor.api.held_bytes import HeldBytes
from predictor.api.live_grpc import serve_stream, stream_handler
from predictor.api.reading import off_loop
from predictor.api.realtime import LiveDoor
from predictor.errors import AsrError, InvalidInput
from predictor.metrics import Metrics

_MAX_CALLS: Final = 1024  # of ModelInfer at once; most wait for room
MAX_QUESTIONS: Final = 256  # calls of other methods, which need no key, at once
# Of one connection. Above it the library itself refuses some calls, with another code than ours.
_MAX_STREAMS: Final = 4096
_IDLE_MS: Final = 300_000
_SMALL_AT_ONCE: Final = 2  # messages read but for ModelInfer; one may turn out to be large


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
        self._model = dataplane.model
        self._live = live
        self.keys = live.keys
        self.calls = Calls(metrics, dataplane.model_digest)
        self._places = Places(_MAX_CALLS, "calls")
        # gRPC puts messages together where nobody can count their bytes: streams are counted.
        self._streams = Places(max_streams, "gRPC streams", "max_grpc_streams")

    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._model.is_ready()

    def check_room(self) -> None:
        """Before ModelInfer is called. Raises Overloaded."""
        self._places.check()
        self._model.check_room()

    async def ModelInfer(  # noqa: N802  the protocol's name
        self, message: Message, context: Context, timeout_s: float
    ) -> pb.ModelInferResponse:
        """Transcribe tensors."""
        async with self.calls.one(context, "ModelInfer", timeout_s) as call:
            self.keys.check(call.headers)
            with self._places.taken():
                answer = await self._infer(message, call)
        await call.name()
        return answer

    async def _infer(self, message: Message, call: OneCall) -> pb.ModelInferResponse:
        async with message.read(call.context) as data:
            request = await off_loop(len(data), lambda: read_grpc(data))
            name, max_items = request.model_name, self._dataplane.max_items
            await self._dataplane.get_model(name)
            asked = await off_loop(len(data), lambda: v2.grpc_call(request, max_items))
            answer: pb.ModelInferResponse = await self._dataplane.call(name, asked, call.headers)
            return answer

    async def ModelStreamInfer(  # noqa: N802  the protocol's name
        self, messages: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[Any]:
        """Live speech; see `live_grpc`."""
        try:
            async with self.calls.one(context, "ModelStreamInfer") as call:
                self.keys.check(call.headers)
                with self._streams.taken():
                    await call.name()
                    async with aclosing(serve_stream(self._live, messages)) as responses:
                        async for response in responses:
                            yield response
        except AsrError as error:
            await abort(context, error)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Whether requests should be sent to the model."""
        return pb.ModelReadyResponse(ready=await self._dataplane.model_ready(request.name))

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs."""
        metadata = await self._dataplane.model_metadata(request.name)
        metadata.pop("properties", None)  # KServe's message has no place for them
        return pb.ModelMetadataResponse(**metadata)

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """Whether the engine's loop turns."""
        return pb.ServerLiveResponse(live=self._model.alive())

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> NoReturn:
        """Closed."""
        raise Closed("models are not loaded or unloaded over the network")

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> NoReturn:
        """Closed."""
        raise Closed("models are not loaded or unloaded over the network")


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
            # Calls that nobody looked at yet; above the first it drops some, without our code.
            ("grpc.server.max_pending_requests", _MAX_STREAMS),
            ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_STREAMS),
            ("grpc.max_connection_idle_ms", _IDLE_MS),
            ("grpc.max_allowed_incoming_connections", limits.max_connections),
            ("grpc.server_handshake_timeout_ms", round(1000 * limits.client_timeout_s)),
        ],
    )
    # Small messages have room of their own, so that no upload holds up a question about the model.
    most, patience_s = limits.max_message_bytes, limits.client_timeout_s
    small = Message(HeldBytes(_SMALL_AT_ONCE * most), most, patience_s)
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    questions = Places(MAX_QUESTIONS, "questions")
    handlers = {
        method.name: _question(servicer, method, small, questions) for method in service.methods
    }
    handlers["ModelInfer"] = _infer(servicer, Message(held, most, patience_s), limits)
    full = RefuseCallWhenFull(
        f"/{service.full_name}/ModelInfer", servicer.check_room, servicer.keys, servicer.calls
    )
    generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
    stream = stream_handler(servicer.ModelStreamInfer)
    health = health_handler(servicer.is_ready, small.read_at_once)
    server.add_generic_rpc_handlers((full, generic, stream, health))
    return server


def _infer(servicer: AsrServicer, message: Message, limits: GrpcLimits) -> Any:
    """ModelInfer as a stream of one request."""

    async def infer(_: object, context: Context) -> Any:
        return await _answered(
            context, servicer.ModelInfer(message, context, limits.request_timeout_s)
        )

    return grpc.stream_unary_rpc_method_handler(
        infer, None, pb.ModelInferResponse.SerializeToString
    )


def _question(servicer: AsrServicer, method: Any, message: Message, places: Places) -> Any:
    """Any other method as a stream of one request."""
    answer = getattr(servicer, method.name)
    request_type = getattr(pb, method.input_type.name)
    response_type = getattr(pb, method.output_type.name)

    async def asked(context: Context) -> Any:
        async with servicer.calls.question(context) as call:
            with places.taken():
                async with message.read(context) as data:
                    request = _small(data, request_type)
                answered = await answer(request, context)
        await call.name()
        return answered

    async def ask(_: object, context: Context) -> Any:
        return await _answered(context, asked(context))

    return grpc.stream_unary_rpc_method_handler(ask, None, response_type.SerializeToString)


def _small(data: bytes, request_type: Any) -> Any:
    if len(data) > SMALL_MESSAGE_BYTES:
        raise InvalidInput(
            f"message: {len(data)} bytes, the limit is {SMALL_MESSAGE_BYTES}",
            field="message",
            value=len(data),
            limit=SMALL_MESSAGE_BYTES,
        )
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"message: no {request_type.DESCRIPTOR.name}") from error


async def _answered(context: Context, answering: Awaitable[Any]) -> Any:
    """The answer, or the end of the call with an error of the table."""
    try:
        return await answering
    except AsrError as exc:
        error = exc
    # gRPC keeps the exception that ends a call, that its traceback, and that the message.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return await abort(context, error)
