"""What KServe's server does by itself and ours must not: each trap, tried from outside."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
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


@pytest.fixture
def stub(server: Any) -> Iterator[GRPCInferenceServiceStub]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options) as channel:
        yield GRPCInferenceServiceStub(channel)


def _binary(head: dict[str, Any], *parts: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    headers = {
        "inference-header-content-length": str(len(text)),
        "content-type": "application/octet-stream",
    }
    return b"".join([text, *parts]), headers


def _audio_head(size: int, **more: Any) -> dict[str, Any]:
    tensor = {"name": "audio", "shape": [1], "datatype": "BYTES"}
    return {"inputs": [{**tensor, "parameters": {"binary_data_size": size}, **more}]}


def test_raw_audio_bytes_over_binary_rest(
    http: httpx.Client, speech: bytes, said: list[dict[str, Any]]
) -> None:
    raw = struct.pack("<I", len(speech)) + speech
    body, headers = _binary(_audio_head(len(raw)), raw)
    answer = http.post(INFER, content=body, headers=headers).json()
    assert answer["outputs"][0]["data"] == [said[0]["text"]]


def test_a_missing_datatype_in_a_binary_header(http: httpx.Client) -> None:
    head = {"inputs": [{"name": "audio", "shape": [1], "parameters": {"binary_data_size": 4}}]}
    body, headers = _binary(head, b"\0\0\0\0")
    response = http.post(INFER, content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["field"] == "datatype"


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        ({"name": "audio", "shape": [1], "datatype": "UINT8", "data": [1]}, "audio"),
        ({"name": "audio", "shape": [1], "datatype": "FP32", "data": [1.0]}, "audio"),
        ({"name": "audio", "shape": [2], "datatype": "BYTES", "data": ["AAAA"]}, "audio"),
        ({"name": "audio", "shape": [1, 2], "datatype": "BYTES", "data": ["A", "B"]}, "audio"),
        ({"name": "audio", "shape": [], "datatype": "BYTES", "data": ["AAAA"]}, "audio"),
        ({"name": "audio", "shape": [-1], "datatype": "BYTES", "data": ["AAAA"]}, "audio"),
        ({"name": "audio", "shape": [1.5], "datatype": "BYTES", "data": ["AAAA"]}, "audio"),
        ({"name": "audio", "shape": "1", "datatype": "BYTES", "data": ["AAAA"]}, "audio"),
        ({"name": "audio", "shape": [1], "datatype": "BYTES", "data": ["@@@"]}, "audio"),
        ({"name": "audio", "shape": [1], "datatype": "BYTES", "data": [7]}, "audio"),
        ({"name": "audio", "shape": [1], "datatype": "BYTES", "data": "AAAA"}, "audio"),
        ({"name": "audio", "shape": [1], "datatype": "BYTES"}, "audio"),
        ({"name": "audio", "shape": [0], "datatype": "BYTES", "data": []}, "inputs"),
        ({"name": "speech", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}, "inputs"),
        ({"name": "waveform", "shape": [2], "datatype": "FP32", "data": [0, 0]}, "sample_rate"),
        ({"name": "waveform", "shape": [2], "datatype": "FP64", "data": [0, 0]}, "waveform"),
        ({"name": "waveform", "shape": [2], "datatype": "FP32", "data": ["1", "2"]}, "waveform"),
        ({"name": "waveform", "shape": [2], "datatype": "FP32", "data": [[1], [2, 3]]}, "waveform"),
        ({"name": "waveform", "shape": [1, 1, 2], "datatype": "FP32", "data": [0, 0]}, "waveform"),
        ({"name": "waveform", "shape": [3], "datatype": "FP32", "data": [0, 0]}, "waveform"),
    ],
)
def test_datatypes_and_shapes_are_checked(
    http: httpx.Client, tensor: dict[str, Any], field: str
) -> None:
    parameters = {"sample_rate": 16000} if field == "waveform" else {}
    response = http.post(INFER, json={"inputs": [tensor], "parameters": parameters})
    assert response.status_code == 400, response.text
    assert response.json()["field"] == field


@pytest.mark.parametrize(
    "rate", [0, -1, 16000.5, "16000", True, 10**12], ids=lambda rate: repr(rate)
)
def test_a_sample_rate_that_is_none(http: httpx.Client, rate: Any) -> None:
    tensor = {"name": "waveform", "shape": [4000], "datatype": "FP32", "data": [0.0] * 4000}
    response = http.post(INFER, json={"inputs": [tensor], "parameters": {"sample_rate": rate}})
    assert response.status_code == 400
    assert "sample" in response.json()["error"]


def test_nan_in_a_raw_waveform_is_refused_by_its_index(http: httpx.Client) -> None:
    array = np.zeros((2, 16000), dtype="<f4")
    array[1, 77] = np.nan
    tensor = {"name": "waveform", "shape": [2, 16000], "datatype": "FP32"}
    head = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": array.nbytes}}],
        "parameters": {"sample_rate": 16000},
    }
    body, headers = _binary(head, array.tobytes())
    response = http.post(INFER, content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["index"] == 1


def test_one_bad_item_is_named_by_its_index(http: httpx.Client, speech: bytes) -> None:
    data = [base64.b64encode(b).decode() for b in (speech, b"no audio at all", speech)]
    tensor = {"name": "audio", "shape": [3], "datatype": "BYTES", "data": data}
    response = http.post(INFER, json={"inputs": [tensor]})
    assert response.status_code == 400
    assert response.json()["index"] == 1
    assert response.json()["error"].startswith("item 1: ")


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999", "", "٣"])
def test_a_header_length_that_lies(http: httpx.Client, length: str) -> None:
    headers = [(b"inference-header-content-length", length.encode())]
    response = http.post(INFER, content=b'{"inputs": []}', headers=headers)
    assert response.status_code == 400


@pytest.mark.parametrize("size", [-1, 10**9, 2.0, True, "4", None])
def test_a_binary_size_that_lies(http: httpx.Client, size: Any) -> None:
    body, headers = _binary(_audio_head(size), b"\0\0\0\0")
    assert http.post(INFER, content=body, headers=headers).status_code == 400


def test_an_element_longer_than_its_tensor(http: httpx.Client) -> None:
    for raw in (struct.pack("<I", 1000) + b"abc", b"\x01", b"\xff\xff\xff\xff"):
        body, headers = _binary(_audio_head(len(raw)), raw)
        response = http.post(INFER, content=body, headers=headers)
        assert (response.status_code, response.json()["field"]) == (400, "audio")


def test_bytes_that_belong_to_no_tensor(http: httpx.Client) -> None:
    body, headers = _binary(_audio_head(4), b"\0\0\0\0", b"more")
    response = http.post(INFER, content=body, headers=headers)
    assert (response.status_code, response.json()["field"]) == (400, "body")


def test_grpc_raw_contents_and_parameters_map(
    stub: GRPCInferenceServiceStub, speech: bytes, said: list[dict[str, Any]]
) -> None:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="audio", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(speech)) + speech)
    answer = stub.ModelInfer(request)
    text = answer.raw_output_contents[0]
    assert text[4:].decode() == said[0]["text"]
    request.parameters["language"].string_param = "de"
    assert stub.ModelInfer(request).raw_output_contents[1][4:] == b"German"


@pytest.mark.parametrize("value", [{"bool_param": True}, {"string_param": "16000"}, {}])
def test_grpc_parameters_of_the_wrong_kind(
    stub: GRPCInferenceServiceStub, value: dict[str, Any]
) -> None:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="waveform", datatype="FP32", shape=[4])
    request.inputs[0].contents.fp32_contents.extend([0.0] * 4)
    request.parameters["sample_rate"].CopyFrom(pb.InferParameter(**value))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_messages_up_to_64_mib(stub: GRPCInferenceServiceStub) -> None:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="audio", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", LIMIT - 1000) + bytes(LIMIT - 1000))
    with pytest.raises(grpc.RpcError) as caught:  # it came in, and is no audio
        stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    request.raw_input_contents[0] = bytes(LIMIT + 1)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("path", ["/v2/repository/models/qwen3-asr/unload"])
def test_nobody_unloads_the_model(
    http: httpx.Client, stub: GRPCInferenceServiceStub, path: str
) -> None:
    for action in ("load", "unload"):
        response = http.post(f"/v2/repository/models/{MODEL}/{action}")
        assert (response.status_code, response.json()["code"]) == (403, "closed")
    calls = (
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=MODEL)),
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name=MODEL)),
    )
    for call, request in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert http.get(f"/v2/models/{MODEL}/ready").status_code == 200
