"""V2 over REST and gRPC with the official clients of KServe and Triton."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tritonclient.http as triton_http
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput

MODEL = "qwen3-asr"


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array


def _texts(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else v for v in values]


def _check(outputs: dict[str, Any], said: list[dict[str, Any]]) -> None:
    """All five outputs agree with the plain route's answers."""
    assert _texts(outputs["text"]) == [answer["text"] for answer in said]
    assert _texts(outputs["language"]) == [answer["language"] or "None" for answer in said]
    assert list(outputs["duration"]) == pytest.approx([answer["duration"] for answer in said])
    expected = [answer["confidence"] for answer in said]
    assert list(outputs["confidence"]) == pytest.approx(expected, rel=1e-3)
    for text in _texts(outputs["details"]):
        details = json.loads(text)
        assert details["finish_reason"] in ("stop", "length", "repetition", "silence")
        assert details["usage"]["num_audio_tokens"] > 0
        assert 0 <= details["segments"][0]["start"] < 0.3


def _audio_input(recordings: list[bytes]) -> InferInput:
    tensor = InferInput("audio", [len(recordings)], "BYTES")
    tensor.set_data_from_numpy(_objects(recordings), binary_data=True)
    return tensor


def _json_input(recordings: list[bytes]) -> InferInput:
    data = [base64.b64encode(r).decode() for r in recordings]
    return InferInput("audio", [len(recordings)], "BYTES", data=data)


@pytest.mark.parametrize("binary", [False, True])
async def test_kserve_rest_client(
    server: Any, recordings: list[bytes], said: list[dict[str, Any]], binary: bool
) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    tensor = _audio_input(recordings) if binary else _json_input(recordings)
    request = InferRequest(MODEL, [tensor], request_id="abc")
    response = await client.infer(server.url, request, model_name=MODEL)
    assert (response.id, response.model_name) == ("abc", MODEL)
    _check({o.name: o.data for o in response.outputs}, said)
    assert await client.is_server_live(server.url)
    assert await client.is_server_ready(server.url)
    assert await client.is_model_ready(server.url, MODEL)
    await client.close()


async def test_kserve_rest_client_binary_outputs(
    server: Any, recordings: list[bytes], said: list[dict[str, Any]]
) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    names = ("text", "language", "confidence", "duration", "details")
    wanted = [RequestedOutput(name, {"binary_data": True}) for name in names]
    request = InferRequest(MODEL, [_audio_input(recordings)], request_outputs=wanted)
    response = await client.infer(server.url, request, model_name=MODEL)
    _check({o.name: o.data for o in response.outputs}, said)
    await client.close()


@pytest.mark.parametrize("raw", [False, True])
async def test_kserve_grpc_client(
    server: Any, recordings: list[bytes], said: list[dict[str, Any]], raw: bool
) -> None:
    client = InferenceGRPCClient(server.grpc)
    if raw:
        tensor = _audio_input(recordings)
    else:
        tensor = InferInput("audio", [len(recordings)], "BYTES", data=list(recordings))
    response = await client.infer(InferRequest(MODEL, [tensor], request_id="xyz"), timeout=60)
    assert (response.id, response.model_name) == ("xyz", MODEL)
    _check({o.name: o.as_numpy() for o in response.outputs}, said)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(MODEL)
    await client.close()


def _triton_input(module: Any, recordings: list[bytes], **options: Any) -> Any:
    tensor = module.InferInput("audio", [len(recordings)], "BYTES")
    tensor.set_data_from_numpy(_objects(recordings), **options)
    return tensor


NAMES = ("text", "language", "confidence", "duration", "details")


def test_triton_http_client(
    server: Any, recordings: list[bytes], said: list[dict[str, Any]]
) -> None:
    with triton_http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        tensor = _triton_input(triton_http, recordings, binary_data=True)
        result = client.infer(MODEL, [tensor])
        _check({name: result.as_numpy(name) for name in NAMES}, said)
        wanted = [triton_http.InferRequestedOutput("text", binary_data=False)]
        result = client.infer(MODEL, [tensor], outputs=wanted, request_id="7")
        assert result.get_response()["id"] == "7"
        assert [output["name"] for output in result.get_response()["outputs"]] == ["text"]
        assert _texts(result.as_numpy("text")) == [answer["text"] for answer in said]


@pytest.fixture(scope="module")
def triton_grpc(server: Any, recordings: list[bytes]) -> dict[str, Any]:
    """What Triton's gRPC client saw, in a process of its own."""
    job = {
        "grpc": server.grpc,
        "recordings": [base64.b64encode(r).decode() for r in recordings],
        "names": NAMES,
    }
    program = Path(__file__).parent / "triton_grpc_session.py"
    done = subprocess.run(
        [sys.executable, program],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_triton_grpc_client(triton_grpc: dict[str, Any], said: list[dict[str, Any]]) -> None:
    assert triton_grpc["live"]
    assert triton_grpc["ready"]
    assert triton_grpc["model_ready"]
    _check(triton_grpc["audio"], said)
    assert triton_grpc["english"]["language"] == ["English"] * len(said)
    assert triton_grpc["waveform"]["text"] == [said[0]["text"]] * 2


def test_triton_waveform_equals_audio(server: Any, recordings: list[bytes]) -> None:
    samples, rate = soundfile.read(io.BytesIO(recordings[0]), dtype="float32")
    with triton_http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        audio = client.infer(MODEL, [_triton_input(triton_http, recordings[:1])])
        for shape in ([len(samples)], [1, len(samples)]):
            tensor = triton_http.InferInput("waveform", shape, "FP32")
            tensor.set_data_from_numpy(samples.reshape(shape))
            result = client.infer(MODEL, [tensor], parameters={"sample_rate": rate})
            assert list(result.as_numpy("text")) == list(audio.as_numpy("text"))


def test_languages_and_contexts_by_item(server: Any, recordings: list[bytes]) -> None:
    with triton_http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        languages = triton_http.InferInput("language", [2], "BYTES")
        languages.set_data_from_numpy(_objects([b"zh", b"German"]))
        contexts = triton_http.InferInput("context", [2], "BYTES")
        contexts.set_data_from_numpy(_objects(["Grüße".encode(), b""]))
        audio = _triton_input(triton_http, [recordings[0]] * 2)
        result = client.infer(MODEL, [audio, languages, contexts])
        assert _texts(result.as_numpy("language")) == ["Chinese", "German"]
        details = [json.loads(text) for text in _texts(result.as_numpy("details"))]
        more = details[0]["usage"]["num_prompt_tokens"] - details[1]["usage"]["num_prompt_tokens"]
        assert more > 0  # the context is in the prompt


def test_metadata_is_true_and_complete(server: Any, triton_grpc: dict[str, Any]) -> None:
    with triton_http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.get_server_metadata()["name"] == "qwen3-asr-kserve"
        rest = client.get_model_metadata(MODEL)
    grpc = triton_grpc["metadata"]
    assert triton_grpc["server"] == "qwen3-asr-kserve"
    assert rest["name"] == grpc["name"] == MODEL
    assert [t["name"] for t in rest["inputs"]] == [
        "audio",
        "waveform",
        "language",
        "context",
        "draft",
    ]
    assert [t["name"] for t in rest["outputs"]] == list(NAMES)
    for side in ("inputs", "outputs"):
        assert [(t["name"], t["datatype"]) for t in rest[side]] == [
            (t["name"], t["datatype"]) for t in grpc[side]
        ]
