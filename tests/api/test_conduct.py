"""What every route keeps to: bodies have bounds, nothing private is told, who leaves is let go."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

MODEL = "qwen3-asr"
INFER = f"/v2/models/{MODEL}/infer"
LIMIT = 64 * 1024 * 1024


PATHS = [
    "/api/v1/recognize",
    "/v1/audio/transcriptions",
    f"/v1/models/{MODEL}:predict",
    INFER,
]


def _answer_status(connection: socket.socket) -> bytes:
    """The status line, as soon as it is there."""
    return connection.makefile("rb").readline()


def _head(path: str, *headers: str) -> bytes:
    kind = "application/json" if path.startswith(("/v1/models", "/v2")) else FORM
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-type: {kind}", *headers, "", ""]
    return "\r\n".join(lines).encode()


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n'


@pytest.mark.parametrize("path", PATHS)
def test_a_declared_body_above_the_limit_is_refused_unread(server: Any, path: str) -> None:
    with socket.create_connection(_address(server), timeout=60) as connection:
        connection.sendall(_head(path, f"content-length: {LIMIT + 1}"))
        assert b" 413 " in _answer_status(connection)


@pytest.mark.parametrize("path", PATHS)
def test_a_chunked_body_above_the_limit_is_cut_off(server: Any, path: str) -> None:
    field = b"file" if "transcriptions" in path else b"audio"
    chunks = [PART % field, *[bytes(1024 * 1024)] * 128]
    with socket.create_connection(_address(server), timeout=60) as connection:
        connection.sendall(_head(path, "transfer-encoding: chunked"))
        num_sent = 0
        try:
            for chunk in chunks:
                connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                num_sent += len(chunk)
        except OSError:
            assert num_sent < 128 * 1024 * 1024  # it hung up, as it may
        else:
            assert b" 413 " in _answer_status(connection)


def _address(server: Any) -> tuple[str, int]:
    url = httpx.URL(server.url)
    return url.host, url.port or 80


def test_no_audio_in_error_messages(http: httpx.Client) -> None:
    secret = bytes(16) + b"SECRETSECRETSECRET" * 20
    encoded = base64.b64encode(secret).decode()
    tensor = {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [encoded]}
    answers = [
        http.post(INFER, json={"inputs": [tensor]}),
        http.post(INFER, content=b'{"inputs": [' + secret),
        http.post(INFER, content=b'{"inputs": [' + secret, headers={"content-type": "text/plain"}),
        http.post(
            f"/v1/models/{MODEL}:predict", json={"instances": [{"audio": {"b64": "?" + encoded}}]}
        ),
        http.post(f"/v1/models/{MODEL}:predict", json={"instances": [{"audio": encoded}]}),
        http.post(
            f"/v1/models/{MODEL}:predict", content=secret, headers={"content-type": "audio/wav"}
        ),
        http.post("/api/v1/recognize", files={"audio": secret}),
        http.post("/v1/audio/transcriptions", files={"file": secret}, data={"model": MODEL}),
    ]
    for response in answers:
        assert response.status_code == 400, response.text
        assert "SECRET" not in response.text
        assert encoded[:20] not in response.text
        assert "Traceback" not in response.text


def test_request_ids_are_taken_made_and_returned(http: httpx.Client, server: Any) -> None:
    given = http.post("/api/v1/recognize", headers={"x-request-id": "trace-42:a"})
    assert given.headers["x-request-id"] == "trace-42:a"
    assert given.json()["request_id"] == "trace-42:a"
    [line] = server.wait_for_log("trace-42:a")
    assert (line["status"], line["path"], line["error"]) == (
        415, "/api/v1/recognize", "unsupported_media_type",
    )  # fmt: skip
    made = {http.get("/v2").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    unsafe = http.get("/v2", headers={"x-request-id": "a b\t<script>"})
    assert unsafe.headers["x-request-id"] != "a b\t<script>"
    assert http.get("/v2", headers={"x-request-id": "x" * 500}).headers["x-request-id"] != "x" * 500


def test_neither_text_nor_audio_is_logged(
    http: httpx.Client, server: Any, speech: bytes, said: list[dict[str, Any]]
) -> None:
    http.post(
        f"/v1/models/{MODEL}:predict",
        content=speech,
        params={"context": "PRIVATEWORD"},
        headers={"content-type": "audio/flac", "x-request-id": "private-1"},
    )
    assert server.wait_for_log("private-1")
    everything = json.dumps(server.lines, ensure_ascii=False)
    assert "PRIVATEWORD" not in everything
    assert len(said[0]["text"]) < 5 or said[0]["text"] not in everything


async def test_health_answers_while_clips_decode(
    server: Any, wav: Callable[..., bytes], talk: Callable[..., np.ndarray]
) -> None:
    clip = wav(talk(8.0, rate=48_000), rate=48_000)
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        work = [
            asyncio.create_task(client.post("/api/v1/recognize", files={"audio": clip}))
            for _ in range(32)
        ]
        delays = []
        while not all(task.done() for task in work):
            started = time.monotonic()
            assert (await client.get("/v2/health/ready")).status_code == 200
            delays.append(time.monotonic() - started)
            await asyncio.wait(work, timeout=0.02)
        assert {task.result().status_code for task in work} <= {200, 429}
    assert len(delays) > 10, delays
    print(f"health while 32 clips decode: {len(delays)} answers, slowest {max(delays):.3f} s")


async def test_a_client_that_leaves_frees_its_place(
    server: Any, wav: Callable[..., bytes], talk: Callable[..., np.ndarray]
) -> None:
    clip = wav(talk(25.0))
    before = server.metric("qwen3_asr_requests_total", protocol="openai", code="499")
    async with httpx.AsyncClient(base_url=server.url) as client:
        for stream in ("true", "false"):
            with pytest.raises(httpx.TimeoutException):
                await client.post(
                    "/v1/audio/transcriptions",
                    files={"file": clip},
                    data={"model": MODEL, "stream": stream},
                    timeout=httpx.Timeout(10, read=0.001),
                )
        async for left in _polls(server, "qwen3_asr_requests_total", protocol="openai", code="499"):
            if left == before + 2:
                break
    async for running in _polls(server, "qwen3_asr_sequences_running"):
        if running == 0:  # a step that was under way ends first
            break
    assert server.metric("qwen3_asr_sequences_waiting") == 0
    assert server.metric("qwen3_asr_load") == 0


async def test_a_grpc_client_that_leaves_frees_its_place(
    server: Any,
    wav: Callable[..., bytes],
    talk: Callable[..., np.ndarray],
) -> None:
    clip = wav(talk(25.0))
    labels = {"protocol": "grpc", "code": "499"}
    before = server.metric("qwen3_asr_requests_total", **labels)
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="audio", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(clip)) + clip)
    channel = grpc.insecure_channel(server.grpc)
    call = GRPCInferenceServiceStub(channel).ModelInfer.future(request)
    async for in_flight in _polls(server, "qwen3_asr_requests_in_flight", protocol="grpc"):
        if in_flight == 1 or call.done():
            break
    assert call.cancel()
    async for left in _polls(server, "qwen3_asr_requests_total", **labels):
        if left == before + 1:
            break
    async for running in _polls(server, "qwen3_asr_sequences_running"):
        if running == 0:
            break
    assert server.metric("qwen3_asr_load") == 0
    channel.close()


async def _polls(server: Any, name: str, **labels: str) -> AsyncIterator[float]:
    for _ in range(1000):
        yield await asyncio.to_thread(server.metric, name, **labels)
    pytest.fail(f"{name} never came to what it should be")
