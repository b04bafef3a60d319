"""`grpc.health.v1.Health`, which Kubernetes' gRPC probes and load balancers ask.

Its two messages are a text and a number in their first field, as protobuf's own wrappers are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

SERVICE: Final = "grpc.health.v1.Health"
SERVICES: Final = ("", "inference.GRPCInferenceService")  # "" is the server
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
MAX_WATCHES: Final = 256  # no key is asked of them: one too many ends the oldest
_LOOK_EVERY_S: Final = 1.0

Context = Any  # grpc.aio.ServicerContext, which is untyped


def health_handler(
    is_ready: Callable[[], bool], read: Callable[[Context], Awaitable[bytes | None]]
) -> Any:
    """A generic handler for the server; `is_ready`: whether requests should be sent here.

    `read` gives a call's message, None where it may not come in now.
    """

    def status(service: str) -> int:
        if service not in SERVICES:
            return SERVICE_UNKNOWN
        return SERVING if is_ready() else NOT_SERVING

    async def service_of(context: Context) -> str:
        """The name asked for; where no message can be read now, the server is meant."""
        data = await read(context)
        try:
            return "" if data is None else str(StringValue.FromString(data).value)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no HealthCheckRequest")
            raise

    async def check(_: object, context: Context) -> Int32Value:
        service = await service_of(context)
        found = status(service)
        if found == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {service[:60]!r}")
        return Int32Value(value=found)

    watches: dict[Context, asyncio.Event] = {}  # the oldest first; set: it has to go

    async def watch(_: object, context: Context) -> AsyncIterator[Int32Value]:
        service, said = await service_of(context), 0
        if len(watches) >= MAX_WATCHES:
            watches.pop(next(iter(watches))).set()
        is_over = watches[context] = asyncio.Event()
        try:
            while not is_over.is_set():
                found = status(service)
                if found != said:
                    said = found
                    yield Int32Value(value=found)
                with suppress(TimeoutError):
                    await asyncio.wait_for(is_over.wait(), _LOOK_EVERY_S)
        finally:
            watches.pop(context, None)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "too many watches, begin again")

    serialize = Int32Value.SerializeToString
    handlers = {
        "Check": grpc.stream_unary_rpc_method_handler(check, None, serialize),
        "Watch": grpc.stream_stream_rpc_method_handler(watch, None, serialize),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
