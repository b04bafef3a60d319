"""Memory after requests that were refused, and under those that would like to have much of it."""

from __future__ import annotations

import os
from typing import Any

import httpx
import pytest

from predictor.api.give_back import resident_bytes, trim
from tests.chaos.sockets import memory_bytes

MODEL = "qwen3-asr"
MIB = 1024 * 1024
IS_SOAK = "SOAK_S" in os.environ
BODY = b"{" + bytes((60 if IS_SOAK else 16) * MIB)


@pytest.mark.parametrize(
    "path",
    [f"/v2/models/{MODEL}/infer", f"/v1/models/{MODEL}:predict", "/v2/models/nobody/infer"],
)
def test_refused_bodies_leave_no_memory_behind(server: Any, path: str) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for _ in range(10):
            assert http.post(path, content=BODY).status_code in (400, 404)
        early = memory_bytes(server)
        for _ in range(1000 if IS_SOAK else 30):
            assert http.post(path, content=BODY).status_code in (400, 404)
    assert memory_bytes(server) < 1.05 * early + len(BODY)


def test_memory_that_was_freed_is_given_back() -> None:
    pieces = [bytes(60_000) for _ in range(4000)]
    kept = pieces[::100]
    full = resident_bytes()
    del pieces
    trim()
    assert full - resident_bytes() > 150 * MIB
    assert len(kept) == 40
