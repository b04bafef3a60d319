"""Requests whose client stops in the middle and says so: it sends no more, and listens."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.chaos.sockets import answer, connect, head

HALF: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "a body": (
        lambda: head("POST", "/api/v1/recognize", "content-type: multipart/form-data; boundary=b",
                     "content-length: 1000") + b"--b\r\n",
        "995 more bytes",
    ),
    "a body in chunks": (
        lambda: head("POST", "/v1/models/qwen3-asr:predict", "content-type: audio/wav",
                     "transfer-encoding: chunked") + b"5\r\nRIFF!\r\n",
        "last chunk",
    ),
    "a body in OpenAI's form": (
        lambda: head("POST", "/v1/audio/transcriptions",
                     "content-type: multipart/form-data; boundary=b", "content-length: 9") + b"--",
        "7 more bytes",
    ),
    "a head": (lambda: b"POST /api/v1/recognize HTTP/1.1\r\nhost: a", "empty line"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HALF)
def test_half_a_request_is_told_what_is_missing(server: Any, kind: str) -> None:
    """The client stops sending and listens; it was hung up on without a word."""
    make, missing = HALF[kind]
    with connect(server) as connection:
        connection.sendall(make())
        connection.shutdown(socket.SHUT_WR)
        status, body = answer(connection)
        said = json.loads(body)
    assert status == 400
    if "OpenAI" in kind:
        said = {**said["error"], "error": said["error"]["message"]}
    assert said["code"] == "invalid_input"
    assert missing in said["error"]


def test_half_a_request_is_counted_as_what_it_was_answered(server: Any) -> None:
    path, given = "/v1/models/qwen3-asr:predict", f"half-{time.monotonic_ns()}"
    with connect(server) as connection:
        lines = ["content-type: audio/wav", "content-length: 9", f"x-request-id: {given}"]
        connection.sendall(head("POST", path, *lines) + b"RIFF")
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection)[0] == 400
    [line] = server.wait_for_log(given)
    assert (line["status"], line["error"], line["field"]) == (400, "invalid_input", "body")
