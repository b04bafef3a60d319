"""A draft changes how many steps an answer takes, and never its text."""

from __future__ import annotations

import base64
import struct
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

MODEL = "qwen3-asr"


def _v1(server: Any, speech: bytes, draft: str) -> str:
    instance = {"audio": {"b64": base64.b64encode(speech).decode()}, "language": "en"}
    body = {"instances": [{**instance, "draft": draft}]}
    response = httpx.post(f"{server.url}/v1/models/{MODEL}:predict", json=body, timeout=60)
    text: str = response.json()["predictions"][0]["text"]
    return text


def _v2(server: Any, speech: bytes, draft: str) -> str:
    b64 = base64.b64encode(speech).decode()
    inputs = [
        {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [b64]},
        {"name": "draft", "shape": [1], "datatype": "BYTES", "data": [draft]},
    ]
    body = {"inputs": inputs, "parameters": {"language": "en"}}
    response = httpx.post(f"{server.url}/v2/models/{MODEL}/infer", json=body, timeout=60)
    text: str = response.json()["outputs"][0]["data"][0]
    return text


def _grpc(server: Any, speech: bytes, draft: str) -> str:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.parameters["language"].string_param = "en"
    for name, data in (("audio", speech), ("draft", draft.encode())):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(data)) + data)
    with grpc.insecure_channel(server.grpc) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request)
    text: str = answer.raw_output_contents[0][4:].decode()
    return text


@pytest.mark.parametrize("ask", [_v1, _v2, _grpc])
def test_the_text_is_the_same_and_a_right_draft_saves_steps(
    server: Any, speech: bytes, said: list[dict[str, Any]], ask: Any
) -> None:
    text, num_steps = said[0]["text"], {}
    for draft in ("", "nothing of the kind was said", text[: len(text) // 2], text):
        before = server.metric("qwen3_asr_batch_size_count")
        assert ask(server, speech, draft) == text
        num_steps[draft] = server.metric("qwen3_asr_batch_size_count") - before
    assert num_steps[text] < num_steps[""] / 2


def test_a_draft_that_is_too_long(server: Any, speech: bytes) -> None:
    response = httpx.post(
        f"{server.url}/v1/models/{MODEL}:predict",
        json={
            "instances": [
                {"audio": {"b64": base64.b64encode(speech).decode()}, "draft": "a" * 9000}
            ]
        },
    )
    assert (response.status_code, response.json()["field"]) == (400, "draft")
