"""One time limit, which a caller may make shorter, in every protocol."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

HEADER = "x-request-timeout-s"


@pytest.fixture(scope="module")
def long(wav: Callable[..., bytes], talk: Callable[..., np.ndarray]) -> bytes:
    """More than can be decoded and transcribed in a millisecond."""
    return wav(talk(25.0))


@pytest.mark.parametrize("path", ["/api/v1/recognize", "/v1/audio/transcriptions"])
@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_request_ends_at_its_callers_deadline(
    server: Any, long: bytes, speech: bytes, path: str, stream: str
) -> None:
    name = "audio" if path.startswith("/api") else "file"
    data = {} if name == "audio" else {"model": "qwen3-asr", "stream": stream}
    url = server.url + path
    late = httpx.post(url, files={name: long}, data=data, headers={HEADER: "0.001"}, timeout=60)
    assert late.status_code == 504, late.text
    assert "not finished within 0.001 s" in late.text
    in_time = httpx.post(url, files={name: speech}, data=data, headers={HEADER: "60"}, timeout=60)
    assert in_time.status_code == 200


def test_what_a_late_request_held_is_free_again(server: Any, long: bytes) -> None:
    url = server.url + "/api/v1/recognize"
    for _ in range(3):
        httpx.post(url, files={"audio": long}, headers={HEADER: "0.05"}, timeout=60)
    while server.metric("qwen3_asr_load") > 0:
        time.sleep(0.02)  # leaves the processor to it; the test's time limit ends it
    assert server.metric("qwen3_asr_requests_in_flight", protocol="recognize") == 0


def test_over_grpc_it_is_metadata(server: Any, long: bytes) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="audio", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(long)
    request = pb.ModelInferRequest(model_name="qwen3-asr", inputs=[tensor])
    with grpc.insecure_channel(server.grpc) as channel:
        stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request, metadata=((HEADER, "0.001"),), timeout=60)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "0.001 s" in error.value.details()


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(server: Any, speech: bytes, value: str) -> None:
    answer = httpx.post(
        server.url + "/api/v1/recognize", files={"audio": speech}, headers={HEADER: value}
    )
    assert answer.status_code == 400
    assert HEADER in answer.text


def test_the_setting_is_the_most_that_a_caller_gets(start_server: Any, long: bytes) -> None:
    server = start_server("--request_timeout_s=1", "--enable_grpc=false")
    for headers in ({}, {HEADER: "3600"}):
        url = server.url + "/v1/models/qwen3-asr:predict"
        instance = {"audio": {"b64": base64.b64encode(long).decode()}}
        body = {"instances": [instance] * 24}
        answer = httpx.post(url, json=body, headers=headers, timeout=120)
        assert answer.status_code == 504, answer.text
        assert "within 1 s" in answer.text
