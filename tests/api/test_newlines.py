"""What curl shows ends with a newline, whatever was asked: the prompt stands behind nothing."""

from __future__ import annotations

import base64

import httpx
import pytest

from tests.api.conftest import RECORDINGS, Server, StartServer

CLIP = RECORDINGS / "demo-en-1.flac"


@pytest.fixture(scope="module")
def full(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return start_server(f"--jobs_dir={tmp_path_factory.mktemp('jobs')}", "--enable_page=true")


def test_every_route_that_can_be_read(full: Server) -> None:
    """Those that the server's own document lists, with names put in."""
    paths = httpx.get(full.url + "/openapi.json").json()["paths"]
    routes = [path for path, methods in paths.items() if "get" in methods]
    assert len(routes) > 15
    for path in routes:
        for name in ("qwen3-asr", "absent"):
            filled = path
            for part in ("model_name", "model", "job_id", "model_version"):
                filled = filled.replace(f"{{{part}}}", name if part != "model_version" else "1")
            assert "{" not in filled
            answer = httpx.get(full.url + filled)
            is_page = answer.headers["content-type"].startswith(("text/html", "text/javascript"))
            assert is_page or answer.text.endswith("\n"), filled
    assert httpx.get(full.url + "/openapi.json").text.endswith("\n")


def test_every_answer_about_a_recording(full: Server) -> None:
    audio = base64.b64encode(CLIP.read_bytes()).decode()
    tensor = {"name": "audio", "datatype": "BYTES", "shape": [1], "data": [audio]}
    url = full.url
    answers = [
        httpx.post(f"{url}/v1/models/qwen3-asr:predict", json={"instances": [{"audio": audio}]}),
        httpx.post(f"{url}/v2/models/qwen3-asr/infer", json={"inputs": [tensor]}),
        httpx.post(f"{url}/api/v1/recognize", files={"audio": CLIP.read_bytes()}),
        httpx.post(f"{url}/v1/realtime/client_secrets", json={}),
        httpx.post(f"{url}/v1/realtime/transcription_sessions", json={}),
        httpx.post(f"{url}/v1/absent"),
        httpx.put(f"{url}/v1/jobs"),
    ]
    for form in ("json", "text", "verbose_json", "srt", "vtt"):
        fields = {"model": "qwen3-asr", "response_format": form}
        answers += [
            httpx.post(url + route, data=fields, files={"file": CLIP.read_bytes()})
            for route in ("/v1/audio/transcriptions", "/v1/jobs")
        ]
        job = f"{url}/v1/jobs/{answers[-1].json()['id']}"
        answers.append(httpx.get(job))
        answers.append(httpx.get(f"{job}/result"))
        answers.append(httpx.delete(job))
    chat = {"type": "input_audio", "input_audio": {"data": audio, "format": "flac"}}
    body = {"model": "qwen3-asr", "messages": [{"role": "user", "content": [chat]}]}
    answers.append(httpx.post(f"{url}/v1/chat/completions", json=body))
    for answer in answers:
        assert answer.text.endswith("\n"), f"{answer.request.method} {answer.request.url}"
