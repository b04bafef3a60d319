"""V2 over gRPC: KServe's servicer with our reader, and errors from the one table."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped]
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.servicer import InferenceServicer

from predictor.api import v2
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.errors import Closed, error_headers, to_asr_error
from predictor.api.infer_body import parse_grpc
from predictor.api.live_grpc import serve_stream, stream_handler
from predictor.api.middleware import request_id_of
from predictor.api.reading import off_loop
from predictor.api.realtime import LiveDoor
from predictor.errors import AsrError
from predictor.logs import request_id_var
from predictor.metrics import CLIENT_CLOSED_REQUEST, Metrics
from predictor.service.calls import Call

Context = Any  # grpc.aio.ServicerContext, which is untyped


class AsrServicer(InferenceServicer):  # type: ignore[misc]  # KServe is untyped
    """Overrides what reads tensors, changes models, or could raise an error that has no code."""

    def __init__(
        self,
        dataplane: AsrDataPlane,
        repository: ClosedRepository,
        metrics: Metrics,
        live: LiveDoor,
    ) -> None:
        super().__init__(dataplane, repository)
        self._dataplane = dataplane
        self._metrics = metrics
        self._keys = live.keys
        self._live = live

    async def ModelInfer(  # noqa: N802  the protocol's name
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Transcribe tensors."""
        async with self._request(context, counted=True) as headers:
            self._keys.check(headers)
            await self._dataplane.get_model(request.model_name)

            def read() -> Call:
                return v2.grpc_call(
                    parse_grpc(request),
                    request.model_name,
                    self._dataplane.max_items,
                    raw=len(request.raw_input_contents) > 0,
                )

            call = await off_loop(request.ByteSize(), read)
            answer: pb.ModelInferResponse = await self._dataplane.call(
                request.model_name, call, headers
            )
            return answer

    async def ModelStreamInfer(  # noqa: N802  the protocol's name
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[Any]:
        """Live speech; see `live_grpc`."""
        async with self._request(context, counted=True) as headers:
            self._keys.check(headers)
            async with aclosing(serve_stream(self._live, requests)) as responses:
                async for response in responses:
                    yield response

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
            return pb.ModelMetadataResponse(**await self._dataplane.model_metadata(request.name))

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
        self, context: Context, *, counted: bool = False
    ) -> AsyncIterator[dict[str, str]]:
        """Id, errors and metrics around one call; gives its metadata as headers."""
        headers = {
            key: value
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        request_id = request_id_of(headers.get("x-request-id"))
        token = request_id_var.set(request_id)
        started, status = time.monotonic(), CLIENT_CLOSED_REQUEST
        if counted:
            self._metrics.requests_in_flight.labels(protocol="grpc").inc()
        try:
            await context.send_initial_metadata((("x-request-id", request_id),))
            yield headers
            status = 200
        except grpc.aio.AbortError:
            raise
        except Exception as exc:  # noqa: BLE001  the table has a row for everything else
            error = to_asr_error(exc)
            status = error.spec.http_status
            if counted:
                self._metrics.errors.labels(protocol="grpc", error=error.spec.code).inc()
            await _abort(context, error)
        finally:
            if counted:
                self._metrics.requests_in_flight.labels(protocol="grpc").dec()
                self._metrics.requests.labels(protocol="grpc", code=str(status)).inc()
                elapsed_s = time.monotonic() - started
                self._metrics.request_seconds.labels(protocol="grpc").observe(elapsed_s)
            request_id_var.reset(token)


async def _abort(context: Context, error: AsrError) -> None:
    trailing = (("error-code", error.spec.code), *error_headers(error).items())
    await context.abort(getattr(grpc.StatusCode, error.spec.grpc_code), error.message, trailing)


def create_grpc_server(
    dataplane: AsrDataPlane,
    repository: ClosedRepository,
    metrics: Metrics,
    live: LiveDoor,
    max_message_bytes: int,
    *,
    shares_port: bool = False,
) -> grpc.aio.Server:
    """A server without a port yet; `shares_port`: with other processes of this pod."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.so_reuseport", int(shares_port)),  # else a port in use is an error
        ]
    )
    servicer = AsrServicer(dataplane, repository, metrics, live)
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((stream_handler(servicer.ModelStreamInfer),))
    return server
