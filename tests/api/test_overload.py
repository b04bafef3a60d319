"""A full server refuses before it reads, and decodes nothing that it refuses."""

from __future__ import annotations

import asyncio
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
FORM = {"content-type": "multipart/form-data; boundary=b"}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def small() -> Any:
    """Room for three clips."""
    argv = [f"--model_dir={CHECKPOINT}", "--device=cpu", f"--max_held_audio_s={3.5 * CLIP_S}"]
    server: AsrServer = build_server(load_settings(argv, {}), CollectorRegistry())
    server.decoder.start()
    server.model.load()
    yield server
    server.model.stop()
    server.decoder.close()


@pytest.fixture
async def http(small: AsrServer) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(small.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
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
