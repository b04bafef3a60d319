"""OpenAI's routes as clients in other languages see them; README.md names what they need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import (  # noqa: F401
    RECORDINGS,
    encodings,
    recordings,
    said,
    server,
    speech,
    start_server,
)
from tests.api.test_operators import write_certificate
from tests.live.server import pcm16
from tests.live.streams import alone

HERE = Path(__file__).parent
MODEL = "qwen3-asr"


def _needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: this client is NOT tested")
    return found


@pytest.fixture(scope="module")
def wav_file(speech: bytes, encodings: dict[str, bytes], tmp_path_factory: Any) -> Path:  # noqa: F811
    path: Path = tmp_path_factory.mktemp("audio") / "speech.flac"
    path.write_bytes(speech)
    return path


@pytest.fixture(scope="module")
def aliased(start_server: Any) -> Any:  # noqa: F811
    return start_server("--model_aliases=whisper-1")


@pytest.fixture(scope="module")
def heard(aliased: Any, wav_file: Path) -> dict[str, Any]:
    """What the Node session prints."""
    node = _needs("node")
    if not (HERE / "node_modules").is_dir():
        pytest.skip("npm ci has not been run in tests/clients: Node's clients are NOT tested")
    command = [node, "sessions.mjs", f"{aliased.url}/v1", str(wav_file)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_openais_sdk_for_node(heard: dict[str, Any], said: list[dict[str, Any]]) -> None:  # noqa: F811
    text = said[0]["text"]
    assert heard["json"]["text"] == text
    assert heard["logprobs"] > 0
    assert heard["verbose"]["language"] == "english"
    assert heard["verbose"]["segments"][0]["no_speech_prob"] == 0
    assert heard["srt"].startswith("1\n")
    assert "".join(heard["deltas"]) == heard["done"]["text"] == text
    assert heard["models"] == [MODEL, "whisper-1"]
    assert heard["chat"]["choices"][0]["message"]["content"] == text
    assert "".join(heard["chunks"]) == text
    assert heard["error"] == {"name": "BadRequestError", "param": "language", "status": 400}


def test_vercels_ai_sdk(heard: dict[str, Any], said: list[dict[str, Any]]) -> None:  # noqa: F811
    vercel = heard["vercel"]
    assert vercel["text"] == heard["vercelChat"] == said[0]["text"]
    assert vercel["language"] == "en"  # mapped from the lower-case name
    assert vercel["durationInSeconds"] == pytest.approx(said[0]["duration"])
    assert vercel["segments"][0]["text"] == said[0]["text"]
    assert not vercel["warnings"]


def test_litellm(aliased: Any, wav_file: Path, said: list[dict[str, Any]]) -> None:  # noqa: F811
    """In a folder of its own: it asks for other versions than our locked packages have."""
    folder = Path(sys.prefix) / "litellm"
    if not folder.is_dir():
        pytest.skip(f"make test has not installed LiteLLM into {folder}: it is NOT tested")
    command = [sys.executable, "litellm_session.py", f"{aliased.url}/v1", str(wav_file)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices
    done = subprocess.run(
        command, cwd=HERE, capture_output=True, text=True, timeout=800, env=environment
    )
    assert done.returncode == 0, done.stderr
    answer, text = json.loads(done.stdout.splitlines()[-1]), said[0]["text"]
    assert answer["json"]["text"] == answer["chat"] == answer["verbose"]["text"] == text
    assert answer["verbose"]["language"] == "english"
    assert answer["verbose"]["segments"][0]["text"].strip() == text
    assert answer["verbose"]["duration"] == pytest.approx(said[0]["duration"])
    assert answer["error"]["status"] == 400
    assert "Klingon" in answer["error"]["message"]


def test_javas_http_client(server: Any, wav_file: Path, said: list[dict[str, Any]]) -> None:  # noqa: F811
    """It offers an upgrade to HTTP/2 with every first request."""
    java = _needs("java")
    url = f"{server.url}/v1/models/{MODEL}:predict"
    command = [java, str(HERE / "H2c.java"), url, str(wav_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line]
    assert [a["predictions"][0]["text"] for a in answers] == [said[0]["text"]] * 2


def test_curl_with_http2(server: Any, wav_file: Path, said: list[dict[str, Any]]) -> None:  # noqa: F811
    curl = _needs("curl")
    url = f"{server.url}/api/v1/recognize"
    command = [curl, "--silent", "--show-error", "--http2", "--form", f"audio=@{wav_file}", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == said[0]["text"]


def test_openais_realtime_client_for_node(
    start_server: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It speaks to nobody without TLS."""
    node = _needs("node")
    if not (HERE / "node_modules" / "ws").is_dir():
        pytest.skip("npm ci has not been run in tests/clients: Node's clients are NOT tested")
    cert, key = write_certificate(tmp_path, 1)
    monkeypatch.setenv("QWEN3_ASR_API_KEYS", "right")
    secured = start_server(f"--tls_cert_file={cert}", f"--tls_key_file={key}")
    (tmp_path / "two.pcm").write_bytes(pcm16(alone("en-short-003").samples))
    base = secured.url.replace("http:", "https:") + "/v1"
    command = [node, "realtime.mjs", base, str(tmp_path / "two.pcm"), "right"]
    environment = {**os.environ, "NODE_EXTRA_CA_CERTS": str(cert)}
    done = subprocess.run(
        command, cwd=HERE, capture_output=True, text=True, timeout=800, env=environment
    )
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    kinds = [event["type"] for event in heard["events"]]
    assert kinds[:2] == ["session.created", "session.updated"]
    completed = heard["events"][-1]
    assert completed["transcript"] == "Today is Tuesday, May thirty-first."
    deltas = [e["delta"] for e in heard["events"] if e["type"].endswith("transcription.delta")]
    assert "".join(deltas) == completed["transcript"]
    scored = b"".join(bytes(token["bytes"]) for token in completed["logprobs"])
    assert scored.decode() == completed["transcript"]
    assert heard["secret"]["value"].startswith("ek_")
    assert heard["again"][-1]["transcript"] == completed["transcript"]
