"""A server in another precision: the same texts, and its metrics say what it runs in."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.api.conftest import CHECKPOINT, RECORDINGS, Server, StartServer

CLIPS = [row["audio"] for row in json.loads((RECORDINGS / "recordings.json").read_text("utf-8"))]


def heard(server: Server) -> list[dict[str, Any]]:
    answers = []
    for name in CLIPS:
        files = {"audio": (RECORDINGS / name).read_bytes()}
        response = httpx.post(f"{server.url}/api/v1/recognize", files=files, timeout=60)
        answers.append(response.raise_for_status().json())
    return answers


@pytest.fixture(scope="module")
def int8_server(start_server: StartServer) -> Server:
    return start_server("--precision=int8")


def test_bundled_recordings_say_the_same_in_int8(server: Server, int8_server: Server) -> None:
    exact, rounded = heard(server), heard(int8_server)
    assert len(exact) == len(CLIPS) > 3
    for a, b in zip(exact, rounded, strict=True):
        assert (b["text"], b["language"]) == (a["text"], a["language"])
        assert b["confidence"] == pytest.approx(a["confidence"], abs=0.1)
    assert [a["confidence"] for a in exact] != [b["confidence"] for b in rounded]


def test_metrics_name_the_precision(int8_server: Server) -> None:
    metrics = httpx.get(f"{int8_server.url}/metrics").text
    [line] = [s for s in metrics.splitlines() if s.startswith("qwen3_asr_model_info{")]
    assert 'dtype="int8"' in line
    assert f'checkpoint="{CHECKPOINT.name}"' in line
