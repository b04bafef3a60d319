"""gRPC under fire: messages promised, large or hostile; streams and connections too many."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.api.grpc_health import MAX_WATCHES
from predictor.api.grpc_server import MAX_QUESTIONS
from predictor.api.live_grpc import StreamResponse
from tests.chaos.sockets import memory_bytes, peak_bytes, reset_peak

MODEL = "qwen3-asr"
MIB = 1024 * 1024
IS_SOAK = "SOAK_S" in os.environ
SERVICE = "/inference.GRPCInferenceService/"
CHECK = "/grpc.health.v1.Health/Check"
MAX_STREAMS = 2
MAX_CONNECTIONS = 40
START: bytes = pb.ModelInferRequest(model_name=MODEL).SerializeToString()  # of a stream
REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip


@pytest.fixture(scope="module")
def small(start_server: Any) -> Any:
    """A server with room for two of the largest messages, few connections and little patience."""
    return start_server(
        f"--max_pending_bytes={128 * MIB}",
        "--client_timeout_s=2",
        f"--max_grpc_streams={MAX_STREAMS}",
        f"--max_connections={MAX_CONNECTIONS}",
    )


@contextlib.contextmanager
def channels(server: Any, count: int) -> Iterator[list[grpc.Channel]]:
    """Connections of their own, which set no limits."""
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    made = [grpc.insecure_channel(server.grpc, options) for _ in range(count)]
    try:
        yield made
    finally:
        for channel in made:
            channel.close()


@pytest.mark.parametrize("method", [SERVICE + "ModelInfer", SERVICE + "ServerReady", CHECK])
def test_unfinished_messages_hold_little(small: Any, method: str) -> None:
    """Calls that each promise 60 MB, on connections of their own; room for two."""
    before = memory_bytes(small)
    reset_peak(small)
    message = b"\x3a\x80\x80\x80\x1e" + bytes(60 * MIB)
    num_calls = 24 if IS_SOAK else 14
    with channels(small, num_calls) as made:
        calls = [channel.unary_unary(method).future(message) for channel in made]
        codes = {call.code() for call in calls}
    expected = REFUSED if method != CHECK else {*REFUSED, grpc.StatusCode.OK}
    assert codes <= expected
    assert peak_bytes(small) - before < 600 * MIB  # all 14 are 840; a message is copied once


def test_a_probe_is_answered_while_messages_do_not_come(small: Any) -> None:
    """Calls without a message, which hold the room for messages; none is asked for a key."""
    messages: queue.Queue[bytes | None] = queue.Queue()
    with channels(small, 5) as made:
        stalled = [
            channel.stream_unary(SERVICE + "ServerReady").future(iter(messages.get, None))
            for channel in made[:4]
        ]
        message = StringValue(value="").SerializeToString()
        assert made[4].unary_unary(CHECK)(message, timeout=60) == b"\x08\x01"
        for call in stalled:
            call.cancel()
            messages.put(None)


def test_calls_that_send_nothing_leave_room_for_bodies(small: Any) -> None:
    """They hold what the largest message may take, until `client_timeout_s`."""
    messages: queue.Queue[bytes | None] = queue.Queue()
    with channels(small, 4) as made:
        stalled = [
            channel.stream_unary(SERVICE + "ModelInfer").future(iter(messages.get, None))
            for channel in made
        ]
        statuses = {
            httpx.post(f"{small.url}/v1/models/{MODEL}:predict", content=bytes(MIB), timeout=60)
            for _ in range(5)
        }
        codes = {call.code() for call in stalled}
        for _ in stalled:
            messages.put(None)
    assert {answer.status_code for answer in statuses} == {400}
    assert codes <= REFUSED


def many_empty_strings() -> bytes:
    """25 MB that are 12 million objects."""
    contents = b"\x42\x00" * (12 * MIB)
    tensor = b"\x0a\x05audio\x12\x05BYTES" + b"\x2a" + _varint(len(contents)) + contents
    return START + b"\x2a" + _varint(len(tensor)) + tensor


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


@pytest.mark.parametrize("kind", ["large", "no protobuf"])
def test_hostile_messages_of_a_stream(small: Any, kind: str) -> None:
    before = memory_bytes(small)
    reset_peak(small)
    message = many_empty_strings() if kind == "large" else b"\xff" * 1000
    with channels(small, 1) as [channel]:
        call = channel.stream_stream(SERVICE + "ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([message])))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        lines = [StreamResponse.FromString(line) for line in call(iter([START, message]))]
    texts = [line.infer_response.raw_output_contents[0][4:] for line in lines]
    assert any(b'"code":"invalid_input"' in text for text in texts)
    assert peak_bytes(small) - before < 200 * MIB  # 700 as objects


def test_streams_beyond_the_limit_are_refused(small: Any) -> None:
    method = SERVICE + "ModelStreamInfer"
    with channels(small, MAX_STREAMS + 1) as made:
        sources = [queue.Queue[bytes | None]() for _ in made]
        for source in sources:
            source.put(START)
        calls = [
            channel.stream_stream(method)(iter(source.get, None))
            for channel, source in zip(made[:-1], sources, strict=False)
        ]
        for call in calls:
            next(call)
        with pytest.raises(grpc.RpcError) as caught:
            list(made[-1].stream_stream(method)(iter([START])))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_grpc_streams" in caught.value.details()
        for source in sources:
            source.put(None)
        for call in calls:
            list(call)


async def silent() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def test_what_needs_no_key_and_stays_open_leaves_calls_their_places(
    small: Any, speech: bytes
) -> None:
    """One watch too many ends the oldest, one question too many is refused."""
    service = StringValue(value="").SerializeToString()
    serving = b"\x08\x01"
    async with grpc.aio.insecure_channel(small.grpc) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watches = [watch(service) for _ in range(MAX_WATCHES)]
        for each in watches:
            assert await each.read() == serving
        assert await watch(service).read() == serving
        reads = [asyncio.ensure_future(each.read()) for each in watches]
        with pytest.raises(grpc.RpcError) as ended:
            await next(asyncio.as_completed(reads))
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        ask = channel.stream_unary(SERVICE + "ServerReady")
        asked = [asyncio.ensure_future(ask(silent())) for _ in range(MAX_QUESTIONS + 1)]
        with pytest.raises(grpc.RpcError) as refused:
            await next(asyncio.as_completed(asked))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await channel.unary_unary(CHECK)(service) == serving
        request = pb.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="audio", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(speech)) + speech)
        infer = channel.unary_unary(SERVICE + "ModelInfer")
        assert b"Remind me" in await infer(request.SerializeToString())
        for call in (*asked, *reads):
            call.cancel()
        await asyncio.gather(*asked, *reads, return_exceptions=True)


def test_silent_connections_are_bounded_and_end(small: Any) -> None:
    url = httpx.URL(small.url)
    port = int(small.grpc.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            with contextlib.suppress(OSError):
                connection = socket.create_connection((url.host, port), timeout=60)
                stack.enter_context(connection)
        assert httpx.get(small.url + "/healthz", timeout=60).status_code == 200
        with contextlib.suppress(ConnectionResetError):  # its settings come, then it is closed
            while connection.recv(4096):
                pass
        with channels(small, 1) as [channel]:
            request: bytes = pb.ServerLiveRequest().SerializeToString()
            call = channel.unary_unary(SERVICE + "ServerLive")
            answer = pb.ServerLiveResponse.FromString(
                call(request, timeout=60, wait_for_ready=True)
            )
        assert answer.live
