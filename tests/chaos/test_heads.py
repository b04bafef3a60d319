"""Heads that readers may take for different requests, and handshakes that are none: answered from
the table, and nothing is taken from the request before."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.sockets import answer, code, connect, head, is_closed

MODEL = "qwen3-asr"
PREDICT = f"/v1/models/{MODEL}:predict"
HANDSHAKE = {
    "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
    "sec-websocket-key": "MDEyMzQ1Njc4OWFiY2RlZg==",
}  # fmt: skip


@pytest.mark.parametrize(
    "lines",
    [
        ["host: elsewhere"],
        ["Content-Type: application/json"],
        ["x-api-key: a", "X-API-Key: b"],
        ["authorization: Bearer a", "authorization: Bearer b"],
        ["inference-header-content-length: 1", "inference-header-content-length: 2"],
        ["content-encoding: identity", "content-encoding: gzip"],
        ["content-length: 5", "content-length: 6"],
        ["content-length: 5", "transfer-encoding: chunked"],
        ["transfer-encoding: gzip, chunked"],
        ["transfer-encoding: chunked, identity"],
        ["transfer-encoding: gzip", "transfer-encoding: chunked"],
        ["content-length: +5"],
        ["content-length: 5, 5"],
        ["content-length : 5"],
        ["x-a: b\r\n c"],
        ["x-a: b\0c"],
    ],
    ids=lambda lines: "; ".join(lines).encode("unicode_escape").decode(),
)
def test_a_head_of_two_meanings_is_refused(server: Any, lines: list[str]) -> None:
    with connect(server) as connection:
        connection.sendall(head("POST", PREDICT, "content-type: audio/flac", *lines))
        status, body = answer(connection)
        assert (status, code(body)) == (400, "invalid_input")
        assert is_closed(connection)


def test_who_takes_us_for_a_proxy_is_told(server: Any) -> None:
    """It was hung up on."""
    for target in (b"/v2", b"example.com:443"):
        with connect(server) as connection:
            connection.sendall(b"CONNECT %b HTTP/1.1\r\nhost: a\r\n\r\n" % target)
            status, body = answer(connection)
            assert (status, code(body)) == (400, "invalid_input")


@pytest.mark.parametrize("bad", [b"NONSENSE\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n"])
def test_a_bad_head_takes_nothing_from_the_request_before_it(
    server: Any, speech: bytes, said: list[dict[str, Any]], bad: bytes
) -> None:
    """The first was hung up on while its answer was being made."""
    good = head("POST", PREDICT, "content-type: audio/flac", f"content-length: {len(speech)}")
    with connect(server) as connection:
        connection.sendall(good + speech + bad)
        with connection.makefile("rb") as stream:
            first, _, second = stream.read().partition(b"HTTP/1.1 400")
    assert first.startswith(b"HTTP/1.1 200")
    assert said[0]["text"].encode() in first
    assert b"invalid_input" in second


@pytest.mark.parametrize(
    "changed",
    [
        {"sec-websocket-version": "8"},
        {"sec-websocket-version": ""},
        {"sec-websocket-key": "a"},
        {"sec-websocket-key": ""},
        {"sec-websocket-protocol": ",,;"},
    ],
    ids=lambda changed: "{}={}".format(*next(iter(changed.items()))),
)
def test_a_handshake_that_is_none_is_answered_from_the_table(
    server: Any, changed: dict[str, str]
) -> None:
    lines = [f"{name}: {value}" for name, value in {**HANDSHAKE, **changed}.items() if value]
    with connect(server) as connection:
        connection.sendall(head("GET", "/v1/realtime", *lines))
        status, body = answer(connection)
        assert (status, code(body)) == (400, "invalid_input")
        assert b"upgrade: no handshake of WebSocket: " in body


def test_a_choice_of_upgrades_is_ignored(server: Any) -> None:
    """It was hung up on: uvicorn knows only one."""
    lines = [f"{name}: {value}" for name, value in HANDSHAKE.items() if name != "upgrade"]
    for offer in ("websocket, h2c", "h2c, websocket"):
        with connect(server) as connection:
            connection.sendall(head("GET", "/v2", *lines, f"upgrade: {offer}"))
            assert answer(connection)[0] == 200


@pytest.mark.parametrize(
    "path", ["/v1/realtime?model=a&model=qwen3-asr", "/api/v1/live?rate=16000&rate=8000"]
)
def test_a_query_that_says_two_things_opens_no_session(server: Any, path: str) -> None:
    """The last was taken."""
    lines = [f"{name}: {value}" for name, value in HANDSHAKE.items()]
    with connect(server) as connection:
        connection.sendall(head("GET", path, *lines))
        status, body = answer(connection)
    assert status == 400
    assert b"is given twice" in body
