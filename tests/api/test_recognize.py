"""The plain route with the script that people have, and V1 with KServe's client."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from kserve import InferenceRESTClient, RESTConfig

MODEL = "qwen3-asr"

# Unchanged but for the host and the file, which are passed in.
SCRIPT = """
import requests
import json
def test_asr_service(audio_file):
    url = "http://your-service-ip/api/v1/recognize"
    files = {'audio': open(audio_file, 'rb')}
    response = requests.post(url, files=files)
    if response.status_code == 200:
        result = response.json()
        print("识别结果:", result['text'])
        print("置信度:", result['confidence'])
        return True
    else:
        print("请求失败:", response.status_code)
        return False
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the script leaves its file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_script_that_people_have(
    server: Any,
    speech: bytes,
    said: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "test_audio.wav"
    file.write_bytes(speech)
    namespace: dict[str, Any] = {}
    script = SCRIPT.replace("http://your-service-ip", server.url)
    exec(compile(script, "test_asr_service.py", "exec"), namespace)
    assert namespace["test_asr_service"](str(file)) is True
    printed = capsys.readouterr().out
    assert said[0]["text"] in printed
    assert str(said[0]["confidence"]) in printed


def test_four_fields_and_no_more(server: Any, speech: bytes) -> None:
    response = requests.post(
        server.url + "/api/v1/recognize", files={"audio": ("x.flac", speech)}, timeout=60
    )
    answer = response.json()
    assert list(answer) == ["text", "confidence", "language", "duration"]
    assert 0.0 <= answer["confidence"] <= 1.0
    assert answer["duration"] > 0


def test_language_and_context(server: Any, speech: bytes) -> None:
    url = server.url + "/api/v1/recognize"
    data = {"language": "zh", "context": "Xyzzy"}
    answer = httpx.post(url, files={"audio": speech}, data=data, timeout=60).json()
    assert answer["language"] == "Chinese"
    bad = httpx.post(url, files={"audio": speech}, data={"language": "xx"})
    assert (bad.status_code, bad.json()["field"]) == (400, "language")


async def test_v1_with_kserves_client(
    server: Any, recordings: list[bytes], said: list[dict[str, Any]]
) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v1", timeout=60))
    instances = [{"audio": {"b64": base64.b64encode(r).decode()}} for r in recordings]
    answer = await client.infer(server.url, {"instances": instances}, model_name=MODEL)
    predictions = answer["predictions"]
    for key in ("text", "language", "duration"):
        assert [p[key] for p in predictions] == [a[key] for a in said]
    assert all(p["usage"]["num_audio_tokens"] > 0 for p in predictions)
    assert await client.is_model_ready(server.url, MODEL)
    await client.close()


@pytest.mark.parametrize(
    "content_type",
    ["audio/flac", "audio/wav", "application/octet-stream", "audio/x-anything; codecs=1"],
)
def test_v1_raw_body(
    server: Any, speech: bytes, said: list[dict[str, Any]], content_type: str
) -> None:
    url = f"{server.url}/v1/models/{MODEL}:predict"
    response = httpx.post(url, content=speech, headers={"content-type": content_type}, timeout=60)
    [prediction] = response.json()["predictions"]
    assert prediction["text"] == said[0]["text"]
    forced = httpx.post(
        url, content=speech, params={"language": "fr"}, headers={"content-type": content_type}
    )
    assert forced.json()["predictions"][0]["language"] == "French"
    wrong = httpx.post(
        url, content=speech, params={"lang": "fr"}, headers={"content-type": content_type}
    )
    assert (wrong.status_code, wrong.json()["field"]) == (400, "lang")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", None],
)
def test_v1_json_whatever_its_content_type_says(
    server: Any, speech: bytes, said: list[dict[str, Any]], content_type: str | None
) -> None:
    body = b'{"instances": [{"audio": {"b64": "%s"}}]}' % base64.b64encode(speech)
    headers = {"content-type": content_type} if content_type else {}
    url = f"{server.url}/v1/models/{MODEL}:predict"
    response = httpx.post(url, content=body, headers=headers, timeout=60)
    assert response.json()["predictions"][0]["text"] == said[0]["text"]


# Unchanged; the host is a flag of locust's.
LOCUSTFILE = """
from locust import HttpUser, task, between
class ASRUser(HttpUser):
    wait_time = between(1, 3)
    @task
    def recognize_audio(self):
        with open("test_audio.wav", "rb") as f:
            self.client.post("/api/v1/recognize", files={"audio": f})
"""


def test_the_load_test_that_people_have(server: Any, speech: bytes, tmp_path: Path) -> None:
    (tmp_path / "locustfile.py").write_text(LOCUSTFILE)
    (tmp_path / "test_audio.wav").write_bytes(speech)
    flags = "--headless --users 4 --spawn-rate 4 --run-time 10s --json --exit-code-on-error 1"
    command = [sys.executable, "-m", "locust", "-f", "locustfile.py", f"--host={server.url}"]
    done = subprocess.run(
        [*command, *flags.split()], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    [entry] = json.loads(done.stdout)
    assert entry["num_requests"] >= 4
    assert entry["num_failures"] == 0
