"""Anything at all may come in: no 5xx, no hang, and the server still works afterwards."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from predictor.api.grpc_message import read_grpc
from predictor.api.infer_body import parse_rest
from predictor.api.v1 import v1_call
from predictor.api.v2 import grpc_call, rest_call
from predictor.errors import AsrError

MODEL = "qwen3-asr"
FUZZ = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
_names = st.sampled_from(["audio", "waveform", "language", "context", "text", ""])
_tensor = st.fixed_dictionaries(
    {},
    optional={
        "name": _names | _json,
        "datatype": st.sampled_from(["BYTES", "FP32", "bytes", ""]) | _json,
        "shape": st.lists(st.integers(-2, 5), max_size=3) | _json,
        "data": st.lists(st.text(max_size=6) | st.floats(allow_nan=False), max_size=4) | _json,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-5, 50) | _json, "sample_rate": _json}
        )
        | _json,
    },
)
_infer_body = (
    st.fixed_dictionaries(
        {"inputs": st.lists(_tensor | _json, max_size=3)},
        optional={
            "parameters": st.dictionaries(
                st.sampled_from(["language", "context", "sample_rate", "binary_data_output"]), _json
            ),
            "outputs": st.lists(st.fixed_dictionaries({"name": _names}) | _json, max_size=2),
            "id": _json,
        },
    )
    | _json
)


def _answers_or_refuses(read: Callable[[], object]) -> None:
    """Any other exception fails the test."""
    refusal: AsrError | None = None
    try:
        read()
    except AsrError as error:
        refusal = error
    if refusal is not None:
        assert refusal.spec.http_status < 500
        assert len(refusal.message) < 600


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@settings(deadline=None)
@given(body=_infer_body, tail=st.binary(max_size=60), lie=st.none() | st.integers(-3, 90))
def test_v2_reader_only_raises_its_own_errors(body: Any, tail: bytes, lie: int | None) -> None:
    head = _encode(body)
    length = str(len(head) if lie is None else lie)
    _answers_or_refuses(lambda: rest_call(parse_rest(head + tail, length), MODEL, 4))


@settings(deadline=None)
@given(
    body=st.binary(max_size=80)
    | st.fixed_dictionaries({"instances": st.lists(_json, max_size=2)}).map(_encode)
    | _json.map(_encode),
    content_type=st.none()
    | st.sampled_from(["application/json", "audio/wav"])
    | st.text(max_size=20),
    query=st.dictionaries(st.sampled_from(["language", "context", "x"]), st.text(max_size=9)),
)
def test_v1_reader_only_raises_its_own_errors(
    body: bytes, content_type: str | None, query: dict[str, str]
) -> None:
    _answers_or_refuses(lambda: v1_call(body, content_type, query, 4))


_parameter = st.one_of(
    st.booleans().map(lambda v: pb.InferParameter(bool_param=v)),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: pb.InferParameter(int64_param=v)),
    st.text(max_size=9).map(lambda v: pb.InferParameter(string_param=v)),
    st.just(pb.InferParameter()),
)
_grpc_tensor = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=_names,
    datatype=st.sampled_from(["BYTES", "FP32", "INT8", ""]),
    shape=st.lists(st.integers(-2, 2**40), max_size=3),
    contents=st.builds(
        pb.InferTensorContents,
        bytes_contents=st.lists(st.binary(max_size=8), max_size=3),
        fp32_contents=st.lists(st.floats(width=32), max_size=3),
    ),
)
_grpc_request = st.builds(
    pb.ModelInferRequest,
    model_name=st.just(MODEL),
    inputs=st.lists(_grpc_tensor, max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=20), max_size=3),
    parameters=st.dictionaries(st.sampled_from(["language", "sample_rate", "x"]), _parameter),
)


@settings(deadline=None)
@given(_grpc_request)
def test_grpc_reader_only_raises_its_own_errors(request: pb.ModelInferRequest) -> None:
    _answers_or_refuses(lambda: grpc_call(read_grpc(request.SerializeToString()), 4))


@FUZZ
@given(body=_infer_body)
def test_v2_over_the_wire(http: httpx.Client, body: Any) -> None:
    assert http.post(f"/v2/models/{MODEL}/infer", content=_encode(body)).status_code < 500


@FUZZ
@given(
    path=st.sampled_from(["/api/v1/recognize", "/v1/audio/transcriptions", "/v1/models/x:predict"]),
    kind=st.sampled_from(
        ["multipart/form-data; boundary=b", "multipart/form-data", "application/json", "a", ""]
    ),
    body=st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                b"--b\r\n",
                b"--b--\r\n",
                b"\r\n",
                b"\r\n\r\n",
                b"Content-Disposition: form-data; ",
                b"Content-Type: audio/wav",
                b'name="audio"',
                b'name="file"',
                b'; filename="a"',
                b"x",
                b"\xff",
            ]
        ),
        max_size=14,
    ).map(b"".join),
)
def test_forms_over_the_wire(http: httpx.Client, path: str, kind: str, body: bytes) -> None:
    response = http.post(path, content=body, headers={"content-type": kind} if kind else {})
    assert 400 <= response.status_code < 500, response.text
    assert response.json()["error"]


@FUZZ
@given(_grpc_request)
def test_grpc_over_the_wire(
    grpc_stub: GRPCInferenceServiceStub, request: pb.ModelInferRequest
) -> None:
    code = grpc.StatusCode.OK
    try:
        grpc_stub.ModelInfer(request, timeout=60)
    except grpc.RpcError as error:
        code = error.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.fixture(scope="module")
def grpc_stub(server: Any) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


def _mutations(data: bytes, count: int) -> Iterator[bytes]:
    """Real files with bytes changed, cut out, doubled, and headers that lie."""
    rng = random.Random(0)
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 4, 64))):
            place = rng.randrange(len(broken))
            choice = rng.random()
            if choice < 0.5:
                broken[place] = rng.choice((0, 255, rng.randrange(256)))
            elif choice < 0.7:
                del broken[place : place + rng.randrange(1, 400)]
            elif choice < 0.9:
                broken[place:place] = broken[place : place + rng.randrange(1, 400)]
            else:
                start = rng.randrange(min(64, len(broken)))
                broken[start : start + 4] = rng.randbytes(4)
            if len(broken) < 2:
                break
        yield bytes(broken[: rng.choice((len(broken), rng.randrange(1, len(broken) + 1)))])


def test_mutated_files(
    http: httpx.Client, encodings: dict[str, bytes], said: list[dict[str, Any]], speech: bytes
) -> None:
    seen = set()
    for data in encodings.values():
        for broken in _mutations(data, 12):
            response = http.post("/api/v1/recognize", files={"audio": broken})
            assert response.status_code in (200, 400, 413, 415), response.text
            seen.add(response.status_code)
    assert 400 in seen
    after = http.post("/api/v1/recognize", files={"audio": speech}).json()
    assert after["text"] == said[0]["text"]


def test_mutated_requests(http: httpx.Client, speech: bytes) -> None:
    """Whole V1 bodies with bytes changed."""
    body = b'{"instances": [{"audio": {"b64": "%s"}}]}' % base64.b64encode(speech[:3000])
    for broken in _mutations(body, 60):
        response = http.post(f"/v1/models/{MODEL}:predict", content=broken)
        assert response.status_code in (200, 400)
