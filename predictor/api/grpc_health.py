"""`grpc.health.v1.Health`, which Kubernetes' gRPC probes and load balancers ask.

Its two messages are a text and a number in their first field, as protobuf's own wrappers are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

SERVICE: Final = "grpc.health.v1.Health"
SERVICES: Final = ("", "inference.GRPCInferenceService")  # "" is the server
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
_LOOK_EVERY_S: Final = 1.0


def health_handler(is_ready: Callable[[], bool]) -> Any:
    """A generic handler for the server; `is_ready`: whether requests should be sent here."""

    def status(service: str) -> int:
        if service not in SERVICES:
            return SERVICE_UNKNOWN
        return SERVING if is_ready() else NOT_SERVING

    async def check(request: StringValue, context: Any) -> Int32Value:
        found = status(request.value)
        if found == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.value[:60]!r}")
        return Int32Value(value=found)

    async def watch(request: StringValue, _: Any) -> AsyncIterator[Int32Value]:
        said = 0
        while True:
            found = status(request.value)
            if found != said:
                said = found
                yield Int32Value(value=found)
            await asyncio.sleep(_LOOK_EVERY_S)

    coding = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": Int32Value.SerializeToString,
    }
    handlers = {
        "Check": grpc.unary_unary_rpc_method_handler(check, **coding),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, **coding),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
