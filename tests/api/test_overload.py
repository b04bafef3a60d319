"""A full server refuses before it reads, and decodes nothing that it refuses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from predictor.audio.pool import DecoderPool
from predictor.server import AsrServer, build_server
from predictor.settings.read import load_settings

CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
MODEL = "qwen3-asr"
CLIP_S = 3.245  # of `speech`
KEY = "a-key-of-an-operator"
PAGE = "https://page.example"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def small() -> Any:
    """Room for three clips."""
    argv = [f"--model_dir={CHECKPOINT}", "--device=cpu", f"--max_held_audio_s={3.5 * CLIP_S}"]
    argv.append(f"--cors_origins={PAGE}")
    settings = load_settings(argv, {"QWEN3_ASR_API_KEYS": KEY})
    server: AsrServer = build_server(settings, CollectorRegistry())
    server.decoder.start()
    server.model.load()
    yield server
    server.model.stop()
    server.decoder.close()


@pytest.fixture
async def http(small: AsrServer) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(small.app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://local", headers={"x-api-key": KEY}
    ) as client:
        yield client


async def test_what_is_refused_is_never_decoded(
    http: httpx.AsyncClient, speech: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times what there is room for, at once: as many are decoded as are answered."""
    num_begun, begin = [0], DecoderPool.begin

    async def counted(*arguments: Any) -> None:
        num_begun[0] += 1
        await begin(*arguments)

    monkeypatch.setattr(DecoderPool, "begin", counted)
    answers = await asyncio.gather(
        *(http.post("/api/v1/recognize", files={"audio": speech}) for _ in range(30))
    )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert num_begun[0] == statuses.count(200) >= 3
    texts = {answer.json()["text"] for answer in answers if answer.status_code == 200}
    assert texts == {"Remind me to call my sister at 7:30."}


@pytest.mark.parametrize(
    "path",
    ["/api/v1/recognize", "/v1/audio/transcriptions", "/openai/v1/audio/transcriptions",
     "/v1/chat/completions", f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"],
)  # fmt: skip
async def test_a_small_body_is_refused_before_it_is_read(
    small: AsrServer, http: httpx.AsyncClient, speech: bytes, path: str
) -> None:
    loaded = small.model.loaded
    assert loaded is not None
    was_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield b"{}"

    await http.post("/api/v1/recognize", files={"audio": speech})  # so that a length is known
    with loaded.transcriber.admission.hold(3 * CLIP_S):
        headers = {"content-length": "2", "content-type": "application/json"}
        refused = await http.post(path, content=body(), headers=headers)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert not was_read


async def test_a_refusal_is_counted_logged_and_named_as_any_answer(
    small: AsrServer,
    http: httpx.AsyncClient,
    speech: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Though it passes none of the middleware that does so for others."""
    loaded = small.model.loaded
    assert loaded is not None
    answered = await http.post("/api/v1/recognize", files={"audio": speech})
    before = await counted(http)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-request-id": "mine", "traceparent": parent, "origin": PAGE}
    with loaded.transcriber.admission.hold(3 * CLIP_S), caplog.at_level("INFO"):
        refused = await http.post("/v1/audio/transcriptions", data={"model": "m"}, headers=headers)
        unknown = await http.post(
            "/v1/audio/transcriptions", data={"model": "m"}, headers={"x-api-key": "guessed"}
        )
    assert (refused.status_code, unknown.status_code) == (429, 401)
    assert refused.json()["error"]["code"] == "overloaded"
    assert refused.headers["x-request-id"] == "mine"
    assert refused.headers["x-model-identity"] == answered.headers["x-model-identity"]
    assert refused.headers["access-control-allow-origin"] == PAGE
    [line] = [r.fields for r in caplog.records if getattr(r, "fields", {}).get("status") == 429]
    assert (line["key"], line["error"], line["trace_id"]) == (
        "key-1", "overloaded", "0af7651916cd43dd8448eb211c80319c"
    )  # fmt: skip
    after = await counted(http)
    assert {name: after[name] - before[name] for name in after} == {"errors": 1, "requests": 1}


async def counted(http: httpx.AsyncClient) -> dict[str, float]:
    """Refusals of OpenAI's routes in the metrics."""
    text = (await http.get("/metrics")).text
    samples = {
        "errors": r'^qwen3_asr_errors_total{error="overloaded",protocol="openai"} (.+)$',
        "requests": r'^qwen3_asr_requests_total{code="429",protocol="openai"} (.+)$',
    }
    found = {name: re.search(sample, text, re.MULTILINE) for name, sample in samples.items()}
    return {name: float(match[1]) if match else 0.0 for name, match in found.items()}


async def test_a_large_body_is_read_first(
    small: AsrServer, http: httpx.AsyncClient, speech: bytes
) -> None:
    """Whoever still sends would not read an answer; what is no audio is said as always."""
    loaded = small.model.loaded
    assert loaded is not None
    with loaded.transcriber.admission.hold(3 * CLIP_S):
        answer = await http.post("/api/v1/recognize", files={"audio": bytes(300_000)})
    assert answer.status_code == 400


async def test_jobs_and_questions_are_not_refused(
    small: AsrServer, http: httpx.AsyncClient
) -> None:
    loaded = small.model.loaded
    assert loaded is not None
    with loaded.transcriber.admission.hold(100.0):
        for path in ("/healthz", "/v2/health/ready", "/v1/models"):
            assert (await http.get(path)).status_code == 200
        made = await http.post("/v1/realtime/client_secrets", json={})
    assert made.status_code == 200
