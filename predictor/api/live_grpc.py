"""`ModelStreamInfer`: live speech over V2's bidirectional stream, as Triton's clients speak it.

Requests carry `audio`, INT16 or FP32 samples [n]; the first one's parameters are the options of
`live_json.OPTIONS` (`rate` in Hz, 16000 if left out). Each response has one output, `event`, BYTES
[1]: a JSON line of `live_json`. When the client has no more to send, what is left is finished.

KServe's protocol file lacks the method; its one message is declared here.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
import numpy as np
import orjson
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.api.live_connection import WorkQueue, converse, monotonic_s
from predictor.api.live_json import PlainOptions, PlainSession
from predictor.api.reading import off_loop
from predictor.api.realtime import LiveDoor
from predictor.errors import InvalidInput

SERVICE: Final = "inference.GRPCInferenceService"
METHOD: Final = "ModelStreamInfer"
MAX_MESSAGE_BYTES: Final = 1 << 20  # 10 s of 48 kHz; protobuf makes objects of what it reads
_DATATYPES: Final = {"INT16": "<i2", "FP32": "<f4"}

Context = Any  # grpc.aio.ServicerContext, which is untyped


def _response_class() -> Any:
    """`inference.ModelStreamInferResponse`, as Triton declares it."""
    file = descriptor_pb2.FileDescriptorProto(
        name="qwen3_asr_stream.proto",
        package="inference",
        syntax="proto3",
        dependency=[pb.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="ModelStreamInferResponse")
    kinds = descriptor_pb2.FieldDescriptorProto
    message.field.add(
        name="error_message", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL
    )
    message.field.add(
        name="infer_response",
        number=2,
        type=kinds.TYPE_MESSAGE,
        label=kinds.LABEL_OPTIONAL,
        type_name=".inference.ModelInferResponse",
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    name = "inference.ModelStreamInferResponse"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


StreamResponse: Final = _response_class()


def stream_handler(serve: Any) -> Any:
    """The generic handler of the method; `serve(messages, context)` yields responses."""
    method = grpc.stream_stream_rpc_method_handler(serve, None, StreamResponse.SerializeToString)
    return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})


async def serve_stream(door: LiveDoor, messages: AsyncIterator[bytes]) -> AsyncGenerator[Any]:
    """One call. Raises an AsrError before the first response only."""
    first_message = await anext(messages, None)
    if first_message is None:
        return
    first = await _parsed(first_message)
    door.dataplane.named(first.model_name)
    options = PlainOptions.of(_parameters(first), door.default_language)
    parts = await door.parts()
    lines: asyncio.Queue[Any] = asyncio.Queue(maxsize=64)
    with door.hub.place():
        session = PlainSession(parts, options, lines.put, door.max_session_s)
        running = asyncio.create_task(_run(door, session, first, messages, lines))
        try:
            while (line := await lines.get()) is not None:
                yield _response(first, line)
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            session.listener.close()


async def _run(
    door: LiveDoor,
    session: PlainSession,
    first: pb.ModelInferRequest,
    messages: AsyncIterator[bytes],
    lines: asyncio.Queue[Any],
) -> None:
    try:
        await session.begin()
        read = partial(_read, session, first, messages)
        ending = await converse(door.hub, read, session.warn, door.max_session_s)
        await session.end(ending)
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await lines.put(None)


async def _read(
    session: PlainSession,
    first: pb.ModelInferRequest,
    messages: AsyncIterator[bytes],
    queue: WorkQueue,
) -> bool:
    work = partial(_hear, session, first, monotonic_s())
    await queue.put(partial(session.attempt, work), first.ByteSize())
    async for message in messages:
        later = partial(_hear_message, session, message, monotonic_s())
        await queue.put(partial(session.attempt, later), len(message))
    return True


async def _hear_message(session: PlainSession, message: bytes, arrived_s: float) -> None:
    await _hear(session, await _parsed(message), arrived_s)


async def _hear(session: PlainSession, request: pb.ModelInferRequest, arrived_s: float) -> None:
    await session.listener.hear(_audio(request), arrived_s)


async def _parsed(message: bytes) -> pb.ModelInferRequest:
    """Raises InvalidInput for what is no request, or larger than live audio is."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise InvalidInput(
            f"message: {len(message)} bytes, the limit of a stream's is {MAX_MESSAGE_BYTES}",
            field="message",
            value=len(message),
            limit=MAX_MESSAGE_BYTES,
        )
    try:
        return await off_loop(len(message), lambda: pb.ModelInferRequest.FromString(message))
    except DecodeError as error:
        raise InvalidInput("message: no ModelInferRequest", field="message") from error


def _parameters(request: pb.ModelInferRequest) -> dict[str, str]:
    """Parameters as a query would have them."""
    found = {}
    for name, parameter in request.parameters.items():
        value = getattr(parameter, parameter.WhichOneof("parameter_choice") or "string_param")
        found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    found.pop("sequence_id", None)  # Triton's clients may number and mark a stream's requests
    for mark in ("sequence_start", "sequence_end", "triton_enable_empty_final_response"):
        found.pop(mark, None)
    if found.get("encoding", "pcm16") != "pcm16":
        raise InvalidInput("encoding: tensors hold samples", field="encoding", limit=["pcm16"])
    return found


def _audio(request: pb.ModelInferRequest) -> bytes:
    """PCM16 of the request's samples; none where it has no input. Raises InvalidInput."""
    if not request.inputs:
        return b""
    [tensor, *others] = request.inputs
    if others or tensor.name != "audio" or tensor.datatype not in _DATATYPES:
        raise InvalidInput(
            f"inputs: one input audio of INT16 or FP32 is expected, not {tensor.name[:40]!r} of "
            f"{tensor.datatype[:20]!r}",
            field="inputs",
            limit=["INT16", "FP32"],
        )
    if request.raw_input_contents:
        raw = request.raw_input_contents[0]
        size = np.dtype(_DATATYPES[tensor.datatype]).itemsize
        if len(raw) % size:
            raise InvalidInput("audio: half a sample", field="audio", limit=f"{size} bytes each")
        samples = np.frombuffer(raw, _DATATYPES[tensor.datatype])
    elif tensor.datatype == "FP32":
        samples = np.array(tensor.contents.fp32_contents, np.float32)
    else:
        samples = np.array(tensor.contents.int_contents, np.int64).clip(-32768, 32767)
    if tensor.datatype == "FP32":
        if not np.isfinite(samples).all():
            raise InvalidInput("audio: samples must be finite", field="audio", limit="finite")
        samples = np.round(samples.clip(-1, 1) * 32767)
    return samples.astype("<i2").tobytes()


def _response(request: pb.ModelInferRequest, line: dict[str, Any]) -> Any:
    response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    response.outputs.add(name="event", datatype="BYTES", shape=[1])
    text = orjson.dumps(line)
    response.raw_output_contents.append(struct.pack("<I", len(text)) + text)
    return StreamResponse(infer_response=response)
