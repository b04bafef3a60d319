"""Connections that never become requests: heads without end, idle, stalled, pipelined, too many."""

from __future__ import annotations

import contextlib
import resource
import ssl
from typing import Any

import httpx
import pytest

from tests.api.test_operators import write_certificate
from tests.chaos.sockets import (
    answer,
    code,
    connect,
    head,
    is_closed,
    peak_bytes,
    reset_peak,
)

MODEL = "qwen3-asr"
MIB = 1024 * 1024
MAX_CONNECTIONS = 20
RESERVED = 64


@pytest.fixture(scope="module")
def small(start_server: Any) -> Any:
    """A server with few connections and little patience."""
    return start_server(f"--max_connections={MAX_CONNECTIONS}", "--client_timeout_s=1")


def test_a_head_without_end_is_refused_and_costs_nothing(server: Any) -> None:
    reset_peak(server)
    before = peak_bytes(server)
    for lines in (b"x-a: " + b"a" * MIB, b"x: y\r\n" * (MIB // 6), b"a" * MIB):
        with connect(server) as connection, contextlib.suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\n" + lines[:40_000])
            status, body = answer(connection)
            assert (status, code(body)) == (431, "head_too_large")
        with connect(server) as connection, contextlib.suppress(OSError):
            for _ in range(64):
                connection.sendall(lines)
    assert peak_bytes(server) - before < 32 * MIB


@pytest.mark.parametrize("kind", ["chunk extensions", "trailers", "a second head"])
def test_what_is_neither_head_nor_body_is_bounded(server: Any, kind: str) -> None:
    path = f"/v1/models/{MODEL}:predict"
    start, more = {
        "chunk extensions": (
            head("POST", path, "transfer-encoding: chunked"),
            b"1;" + b"a" * 65536,
        ),
        "trailers": (
            head("POST", path, "transfer-encoding: chunked") + b"0\r\n",
            b"x: y\r\n" * 9999,
        ),
        "a second head": (head("GET", "/healthz") + b"GET / HTTP/1.1\r\nx: ", b"a" * 65536),
    }[kind]
    reset_peak(server)
    before = peak_bytes(server)
    with connect(server) as connection:
        num_sent = 0
        try:
            connection.sendall(start)
            for _ in range(1024):
                connection.sendall(more)
                num_sent += len(more)
        except OSError:
            pass  # it hung up
        assert num_sent < 32 * MIB
    assert peak_bytes(server) - before < 32 * MIB


def test_pipelined_requests_wait_outside(server: Any) -> None:
    reset_peak(server)
    before = peak_bytes(server)
    many = head("GET", "/healthz") * 4000
    with connect(server) as connection:
        connection.settimeout(2)
        num_sent = 0
        with contextlib.suppress(OSError):  # it stops reading while answers are not read
            for _ in range(200):
                connection.sendall(many)
                num_sent += len(many)
        assert peak_bytes(server) - before < 64 * MIB
        connection.settimeout(60)
        assert answer(connection)[0] == 200
    assert httpx.get(server.url + "/healthz").status_code == 200


def test_pipelined_requests_are_all_answered(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(
            head("GET", "/healthz") * 50 + head("GET", "/healthz", "connection: close")
        )
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    assert data.count(b"HTTP/1.1 200 OK") == 51


def test_a_slow_head_is_answered_and_closed(small: Any) -> None:
    with connect(small) as connection:
        connection.sendall(b"POST /api/v1/recognize HTTP/1.1\r\nhost: ")
        status, body = answer(connection)
        assert (status, code(body)) == (408, "request_timeout")
        assert is_closed(connection)


@pytest.mark.parametrize("path", ["/api/v1/recognize", f"/v2/models/{MODEL}/infer"])
def test_a_stalled_body_is_answered_and_closed(small: Any, path: str) -> None:
    kind = "content-type: multipart/form-data; boundary=b"
    with connect(small) as connection:
        connection.sendall(head("POST", path, kind, "content-length: 1000000") + bytes(5000))
        status, body = answer(connection)
        assert (status, code(body)) == (408, "request_timeout")
        assert is_closed(connection)


def test_stalled_uploads_do_not_turn_others_away(small: Any, speech: bytes) -> None:
    path, size = f"/v1/models/{MODEL}:predict", 60 * MIB
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(connect(small))
            connection.sendall(head("POST", path, "content-type: audio/wav",
                                    f"content-length: {size}"))  # fmt: skip
            connection.sendall(bytes(MIB))
        response = httpx.post(small.url + "/api/v1/recognize", files={"audio": speech}, timeout=60)
        assert response.status_code == 200


def test_probes_get_in_when_there_are_too_many_connections(small: Any, speech: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + RESERVED + 30):
            stack.enter_context(connect(small))  # and never a word
        for path in ("/healthz", "/v2/health/ready", f"/v2/models/{MODEL}/ready", "/metrics"):
            assert httpx.get(small.url + path, timeout=60).status_code == 200
    full = [connect(small) for _ in range(MAX_CONNECTIONS)]
    try:
        for connection in full:  # a request each, so that none is idle and every one counts
            connection.sendall(head("GET", "/healthz"))
            assert answer(connection)[0] == 200
        refused = httpx.post(small.url + "/api/v1/recognize", files={"audio": speech}, timeout=60)
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert refused.headers["connection"] == "close"
    finally:
        for connection in full:
            connection.close()
    warnings = [line for line in small.lines if line["message"].startswith("out of connections")]
    assert len(warnings) == 1


def test_handshakes_that_never_end_count_as_connections(start_server: Any, tmp_path: Any) -> None:
    cert, key = write_certificate(tmp_path, 1)
    secured = start_server(
        f"--tls_cert_file={cert}",
        f"--tls_key_file={key}",
        f"--max_connections={MAX_CONNECTIONS}",
        "--client_timeout_s=2",
    )
    trusting = ssl.create_default_context(cafile=str(cert))
    probe = secured.url.replace("http:", "https:") + "/healthz"
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(connect(secured)) for _ in range(MAX_CONNECTIONS + RESERVED + 30)
        ]
        assert httpx.get(probe, verify=trusting, timeout=60).status_code == 200
        for connection in (silent[0], silent[-1]):  # it had to go; it is too slow
            connection.settimeout(30)  # asyncio's own limit is a minute
            assert is_closed(connection)
    assert any(line["message"].startswith("out of connections") for line in secured.lines)


def test_more_connections_than_descriptors(start_server: Any, speech: bytes) -> None:
    """The limit of descriptors is lowered below the connections that come."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))
    try:
        server = start_server("--max_connections=100000")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(min(1100, soft - 200)):
            stack.enter_context(connect(server))
        assert httpx.get(server.url + "/healthz", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "line", [b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
def test_what_is_no_http_is_answered_from_the_table(server: Any, line: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(line + b"\r\n\r\n")
        status, body = answer(connection)
        assert (status, code(body)) == (400, "invalid_input")
        assert is_closed(connection)


@pytest.mark.parametrize("size", [b"zz", b"F" * 18], ids=["no number", "2 to the 72"])
@pytest.mark.parametrize("is_second", [False, True])
def test_a_chunk_that_is_none_is_answered_from_the_table(
    server: Any, size: bytes, is_second: bool
) -> None:
    """It was closed without a word, which looks like a server that crashed."""
    kind = "content-type: audio/flac"
    start = head("POST", f"/v1/models/{MODEL}:predict", kind, "transfer-encoding: chunked")
    with connect(server) as connection:
        if is_second:
            connection.sendall(head("GET", "/healthz"))
            assert answer(connection)[0] == 200
        connection.sendall(start + b"3\r\nabc\r\n" + size + b"\r\nabc")
        status, body = answer(connection)
        assert (status, code(body)) == (400, "invalid_input")
        assert is_closed(connection)


def test_a_bad_request_takes_nothing_from_the_one_before_it(server: Any, speech: bytes) -> None:
    path, kind = f"/v1/models/{MODEL}:predict", "content-type: audio/flac"
    good = head("POST", path, kind, f"content-length: {len(speech)}") + speech
    bad = head("POST", path, kind, "transfer-encoding: chunked") + b"zz\r\nabc"
    with connect(server) as connection:
        connection.sendall(good + bad)
        with connection.makefile("rb") as stream:
            first, _, second = stream.read().partition(b"HTTP/1.1 400")
    assert first.startswith(b"HTTP/1.1 200")
    assert b'"predictions"' in first
    assert b"invalid_input" in second


@pytest.mark.parametrize("parts", [1, 3])
def test_an_offered_upgrade_is_ignored_and_the_body_read(
    server: Any, speech: bytes, said: list[dict[str, Any]], parts: int
) -> None:
    request = head(
        "POST", f"/v1/models/{MODEL}:predict", "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", "content-type: audio/flac",
        f"content-length: {len(speech)}",
    ) + speech  # fmt: skip
    with connect(server) as connection:
        step = len(request) // parts + 1
        for start in range(0, len(request), step):
            connection.sendall(request[start : start + step])
        status, body = answer(connection)
    assert status == 200
    assert said[0]["text"].encode() in body


WEBSOCKET = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
)  # fmt: skip


def test_an_upgrade_to_websocket_of_a_request_with_a_body_is_ignored(
    server: Any, speech: bytes, said: list[dict[str, Any]]
) -> None:
    """It had no answer, and the connection no end."""
    path, length = f"/v1/models/{MODEL}:predict", f"content-length: {len(speech)}"
    with connect(server) as connection:
        connection.sendall(head("POST", path, *WEBSOCKET, "content-type: audio/flac", length))
        connection.sendall(speech)
        status, body = answer(connection)
    assert status == 200
    assert said[0]["text"].encode() in body


@pytest.mark.parametrize("line", ["content-length: 9", "transfer-encoding: chunked"])
def test_a_handshake_with_a_body_that_never_comes_is_answered(small: Any, line: str) -> None:
    with connect(small) as connection:
        connection.sendall(head("GET", "/v1/realtime", *WEBSOCKET, line))
        status, _ = answer(connection)
        assert 400 <= status < 500


@pytest.mark.parametrize("lines", [["x-a: b"] * 200, ["cookie: " + "a" * 9000]])
def test_a_handshake_that_websockets_does_not_read_is_answered_and_closed(
    small: Any, lines: list[str]
) -> None:
    with connect(small) as connection:
        connection.sendall(head("GET", "/v1/realtime", *WEBSOCKET, *lines))
        status, body = answer(connection)
        assert (status, code(body)) == (400, "invalid_input")
        assert is_closed(connection)


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/realtime?intent=conversation"])
def test_a_handshake_that_is_refused_is_no_error_of_ours(server: Any, path: str) -> None:
    """uvicorn logged each as an application's that had failed."""
    with connect(server) as connection:
        connection.sendall(
            head(
                "GET",
                path,
                "upgrade: websocket",
                "connection: Upgrade",
                "sec-websocket-version: 13",
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            )
        )
        assert 400 <= answer(connection)[0] < 500
        assert is_closed(connection)
    httpx.post(f"{server.url}/v1/models/{MODEL}:predict", headers={"x-request-id": path[-8:]})
    server.wait_for_log(path[-8:])
    assert not [line for line in server.lines if line["level"] == "error"]
