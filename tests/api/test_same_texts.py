"""One contract: recordings of the evaluation set say the same whatever protocol carries them."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

MODEL = "qwen3-asr"
EVAL = Path(__file__).parents[1] / "data" / "eval"
EVERY = 30  # so that the test takes seconds


@dataclass(frozen=True)
class Heard:
    text: str
    language: str | None


@dataclass(frozen=True)
class Clients:
    http: httpx.AsyncClient
    stub: GRPCInferenceServiceStub


async def _recognize(clients: Clients, data: bytes) -> Heard:
    response = await clients.http.post("/api/v1/recognize", files={"audio": data})
    return Heard(response.json()["text"], response.json()["language"])


async def _v1_json(clients: Clients, data: bytes) -> Heard:
    body = {"instances": [{"audio": {"b64": base64.b64encode(data).decode()}}]}
    response = await clients.http.post(f"/v1/models/{MODEL}:predict", json=body)
    [prediction] = response.json()["predictions"]
    return Heard(prediction["text"], prediction["language"])


async def _v1_raw(clients: Clients, data: bytes) -> Heard:
    headers = {"content-type": "audio/ogg"}
    response = await clients.http.post(f"/v1/models/{MODEL}:predict", content=data, headers=headers)
    [prediction] = response.json()["predictions"]
    return Heard(prediction["text"], prediction["language"])


def _of_outputs(outputs: list[dict[str, Any]]) -> Heard:
    values = {output["name"]: output["data"][0] for output in outputs}
    language = values["language"]
    return Heard(values["text"], None if language == "None" else language)


async def _v2_json(clients: Clients, data: bytes) -> Heard:
    tensor = {"name": "audio", "shape": [1], "datatype": "BYTES"}
    body = {"inputs": [{**tensor, "data": [base64.b64encode(data).decode()]}]}
    response = await clients.http.post(f"/v2/models/{MODEL}/infer", json=body)
    return _of_outputs(response.json()["outputs"])


async def _v2_binary(clients: Clients, data: bytes) -> Heard:
    raw = struct.pack("<I", len(data)) + data
    tensor = {"name": "audio", "shape": [1], "datatype": "BYTES"}
    size = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [{**tensor, "parameters": size}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    response = await clients.http.post(
        f"/v2/models/{MODEL}/infer", content=head + raw, headers=headers
    )
    return _of_outputs(response.json()["outputs"])


async def _grpc(clients: Clients, data: bytes) -> Heard:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="audio", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(data)) + data)
    answer = await clients.stub.ModelInfer(request)
    text, language = (part[4:].decode() for part in answer.raw_output_contents[:2])
    return Heard(text, None if language == "None" else language)


async def _openai(clients: Clients, data: bytes) -> Heard:
    form = {"model": MODEL, "response_format": "verbose_json"}
    response = await clients.http.post("/v1/audio/transcriptions", files={"file": data}, data=form)
    return Heard(response.json()["text"], (response.json()["language"].capitalize()) or None)


async def _openai_stream(clients: Clients, data: bytes) -> Heard:
    form = {"model": MODEL, "stream": "true"}
    response = await clients.http.post("/v1/audio/transcriptions", files={"file": data}, data=form)
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line]
    text = "".join(event.get("delta", "") for event in events)
    assert events[-1]["text"] == text
    return Heard(text, None)


@pytest.fixture
def sample() -> list[bytes]:
    lines = (EVAL / "manifest.jsonl").read_text("utf-8").splitlines()
    chosen = [json.loads(line) for line in lines][::EVERY]
    assert len(chosen) > 6
    assert max(entry["duration_s"] for entry in chosen) > 15
    return [(EVAL / entry["audio"]).read_bytes() for entry in chosen]


async def test_the_same_texts_over_every_protocol(server: Any, sample: list[bytes]) -> None:
    routes: list[Callable[[Clients, bytes], Awaitable[Heard]]] = [
        _v1_json, _v1_raw, _v2_json, _v2_binary, _grpc, _openai,
    ]  # fmt: skip
    gate = asyncio.Semaphore(8)

    async def heard(route: Callable[[Clients, bytes], Awaitable[Heard]], data: bytes) -> Heard:
        async with gate:
            return await route(clients, data)

    async with (
        httpx.AsyncClient(base_url=server.url, timeout=120) as http,
        grpc.aio.insecure_channel(server.grpc) as channel,
    ):
        clients = Clients(http, GRPCInferenceServiceStub(channel))
        plain = await asyncio.gather(*(heard(_recognize, data) for data in sample))
        for route in routes:
            assert await asyncio.gather(*(heard(route, data) for data in sample)) == plain
        streamed = await asyncio.gather(*(heard(_openai_stream, data) for data in sample))
        assert [answer.text for answer in streamed] == [answer.text for answer in plain]
    assert sum(bool(answer.text) for answer in plain) > len(plain) / 2
