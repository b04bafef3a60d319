"""`channel`, `track`, `vad` in every protocol: an 8 kHz call with one speaker on each channel."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import soundfile
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from scipy import signal

MODEL = "qwen3-asr"
post = partial(httpx.post, timeout=120)  # of a busy machine
RECORDINGS = Path(__file__).parents[2] / "predictor" / "recordings"


def _clip(name: str) -> np.ndarray:
    samples, _ = soundfile.read(RECORDINGS / f"demo-{name}.flac")
    return np.asarray(signal.resample_poly(samples, 1, 2))


@pytest.fixture(scope="module")
def call() -> bytes:
    """The left speaks English, then the right Chinese."""
    left, right = _clip("en-1"), _clip("zh-4")
    both = np.zeros((len(left) + len(right), 2))
    both[: len(left), 0], both[len(left) :, 1] = left, right
    out = io.BytesIO()
    soundfile.write(out, both, 8_000, format="WAV", subtype="ULAW")
    return out.getvalue()


def _check(details: dict[str, Any]) -> None:
    first, second = details["segments"]
    assert (first["channel"], second["channel"]) == (0, 1)
    assert (first["text"], first["language"]) == ("Remind me to call my sister at 7:30.", "English")
    assert (second["text"], second["language"]) == ("请把客厅的灯关掉。", "Chinese")
    assert first["start"] < 0.4
    assert second["start"] == pytest.approx(3.2, abs=0.4)


def test_v1(server: Any, call: bytes) -> None:
    url = f"{server.url}/v1/models/{MODEL}:predict"
    instance = {"audio": {"b64": base64.b64encode(call).decode()}, "channel": "separate"}
    [answer] = post(url, json={"instances": [instance]}).json()["predictions"]
    _check(answer)
    raw = post(url + "?channel=separate", content=call, headers={"content-type": "audio/wav"})
    _check(raw.json()["predictions"][0])


def test_v2_rest(server: Any, call: bytes) -> None:
    content = base64.b64encode(call).decode()
    body = {
        "inputs": [{"name": "audio", "datatype": "BYTES", "shape": [1], "data": [content]}],
        "parameters": {"channel": "separate"},
        "outputs": [{"name": "details"}],
    }
    answer = post(f"{server.url}/v2/models/{MODEL}/infer", json=body).json()
    _check(json.loads(answer["outputs"][0]["data"][0]))


def test_v2_grpc(server: Any, call: bytes) -> None:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="audio", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(call)) + call)
    request.parameters["channel"].string_param = "separate"
    request.outputs.add(name="details")
    with grpc.insecure_channel(server.grpc) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request)
    _check(json.loads(answer.raw_output_contents[0][4:]))


def test_openai(server: Any, call: bytes) -> None:
    answer = post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": ("call.wav", call)},
        data={"model": MODEL, "channel": "separate", "response_format": "verbose_json"},
    ).json()
    assert [segment["channel"] for segment in answer["segments"]] == [0, 1]
    assert answer["text"] == "Remind me to call my sister at 7:30.请把客厅的灯关掉。"


def test_recognize_one_channel_by_its_number(server: Any, call: bytes) -> None:
    url = f"{server.url}/api/v1/recognize"
    for channel, language in ((0, "English"), (1, "Chinese")):
        answer = post(url, files={"audio": call}, data={"channel": str(channel)}).json()
        assert answer["language"] == language


@pytest.mark.parametrize(
    ("field", "value"),
    [("channel", "left"), ("channel", "-1"), ("track", "first"), ("track", "64"), ("vad", "loud")],
)
def test_what_is_not_known_is_refused(server: Any, call: bytes, field: str, value: str) -> None:
    url = f"{server.url}/api/v1/recognize"
    answer = post(url, files={"audio": call}, data={field: value})
    assert answer.status_code == 400
    assert answer.json()["field"] == field
    assert value in answer.json()["error"]


def test_quiet_is_not_heard_and_without_detection_it_is(server: Any) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(16_000 * 8), 16_000, format="FLAC")
    files = {"file": ("a.flac", out.getvalue())}
    url = f"{server.url}/v1/audio/transcriptions"
    for vad, num_segments in (("", 0), ("energy", 0), ("off", 1)):
        data = {"model": MODEL, "response_format": "verbose_json", "vad": vad}
        answer = post(url, files=files, data=data).json()
        assert answer["text"] == ""
        tokens = post(url, files=files, data={**data, "response_format": "json"}).json()
        heard = tokens["usage"]["input_token_details"]["audio_tokens"]
        assert (heard > 0) == bool(num_segments)


def test_speech_between_long_quiet_is_heard_at_its_time(server: Any, speech: bytes) -> None:
    samples, rate = soundfile.read(io.BytesIO(speech))
    rng = np.random.default_rng(0)
    said = post(f"{server.url}/api/v1/recognize", files={"audio": speech}).json()["text"]
    sounds = (lambda n: np.zeros(n), lambda n: rng.normal(0, 10 ** (-70 / 20), n))
    grid = [(sound, quiet_s) for sound in sounds for quiet_s in (5, 20, 60)]

    async def ask(http: httpx.AsyncClient, sound: Any, quiet_s: int) -> None:
        quiet = sound(quiet_s * rate)
        out = io.BytesIO()
        joined = np.concatenate([quiet, samples, quiet, samples, quiet])
        soundfile.write(out, joined, rate, format="FLAC")
        files = {"file": ("a.flac", out.getvalue())}
        data = {"model": MODEL, "response_format": "verbose_json"}
        response = await http.post("/v1/audio/transcriptions", files=files, data=data)
        answer = response.json()
        assert answer["text"] == f"{said} {said}", quiet_s
        length_s = len(samples) / rate
        starts = [segment["start"] for segment in answer["segments"]]
        assert starts[0] == pytest.approx(quiet_s, abs=0.4)
        assert starts[-1] == pytest.approx(2 * quiet_s + length_s, abs=0.4)

    async def all_cells() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
            await asyncio.gather(*(ask(http, *cell) for cell in grid))

    asyncio.run(all_cells())


@pytest.fixture(scope="module")
def apart() -> bytes:
    """Two sentences, 0.25 s of nothing between what is said: one piece, or two."""
    first, second = (soundfile.read(RECORDINGS / f"demo-en-{i}.flac")[0] for i in (1, 2))
    loud_1, loud_2 = (np.flatnonzero(np.abs(x) > 0.02) for x in (first, second))
    gap = np.zeros(4_000)
    samples = np.concatenate([first[: loud_1[-1]], gap, second[loud_2[0] :]])
    out = io.BytesIO()
    soundfile.write(out, samples, 16_000, format="FLAC")
    return out.getvalue()


def _num_pieces(details: dict[str, Any]) -> int:
    return len(details["segments"])


def test_how_it_is_cut_may_be_asked_in_every_protocol(server: Any, apart: bytes) -> None:
    content = base64.b64encode(apart).decode()
    asked = {"vad_min_silence_s": 0.1, "vad_margin_s": 0.1, "vad_threshold": 0.4}
    url = f"{server.url}/v1/models/{MODEL}:predict"
    counts = []
    for given in ({}, asked):
        instance = {"audio": {"b64": content}, **given}
        [answer] = post(url, json={"instances": [instance]}).json()["predictions"]
        body = {
            "inputs": [{"name": "audio", "datatype": "BYTES", "shape": [1], "data": [content]}],
            "parameters": given,
            "outputs": [{"name": "details"}],
        }
        v2 = post(f"{server.url}/v2/models/{MODEL}/infer", json=body).json()
        form = {"model": MODEL, "response_format": "verbose_json"}
        verbose = post(
            f"{server.url}/v1/audio/transcriptions",
            files={"file": apart},
            data={**form, **{name: str(value) for name, value in given.items()}},
        ).json()
        counts.append(
            [
                _num_pieces(answer),
                _num_pieces(json.loads(v2["outputs"][0]["data"][0])),
                _num_pieces(verbose),
            ]
        )
    plain, cut = counts
    assert len(set(plain)) == len(set(cut)) == 1
    assert cut[0] > plain[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vad_threshold", "1"),
        ("vad_margin_s", "-1"),
        ("vad_min_speech_s", "nan"),
        ("vad_min_silence_s", True),
        ("segment_s", "31"),
        ("segment_s", "half"),
    ],
)
def test_numbers_out_of_range_are_named(
    server: Any, apart: bytes, name: str, value: object
) -> None:
    url = f"{server.url}/v1/models/{MODEL}:predict"
    instance = {"audio": {"b64": base64.b64encode(apart).decode()}, name: value}
    answer = post(url, json={"instances": [instance]})
    assert (answer.status_code, answer.json()["field"]) == (400, name)
