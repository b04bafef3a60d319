"""Frames that break WebSocket's rules, at every door: closed with the protocol's code (RFC 6455,
7.4.1), no place kept and no error of ours in the log."""

from __future__ import annotations

import json
import struct
import time
from socket import socket
from typing import Any, Final

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as connect_websocket

from tests.chaos.sockets import connect, head

DOORS: Final = ["/v1/realtime", "/openai/v1/realtime", "/api/v1/live?rate=16000"]
HANDSHAKE: Final = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
)  # fmt: skip
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
MASK: Final = b"\x01\x02\x03\x04"


def frame(opcode: int, data: bytes = b"", *, flags: int = 0x80, size: bytes = b"") -> bytes:
    """A masked frame; `flags` are FIN and the reserved bits, `size` one that lies."""
    if not size:
        size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
    masked = bytes(byte ^ MASK[i % 4] for i, byte in enumerate(data))
    return bytes([flags | opcode, 0x80 | size[0]]) + size[1:] + MASK + masked


BROKEN: Final[dict[str, tuple[bytes, int]]] = {
    "text that is no UTF-8": (frame(TEXT, b'{"a": "\xff\xfe"}'), 1007),
    "text that ends in a character": (frame(TEXT, b'{"a": "\xe4\xb8'), 1007),
    "a surrogate in UTF-8": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "text that is no UTF-8 in fragments": (
        frame(TEXT, b"\xe4", flags=0) + frame(0, b"a", flags=0) + frame(0, b"b"),
        1007,
    ),
    "a reserved opcode": (frame(3, b"a"), 1002),
    "a reserved control opcode": (frame(11), 1002),
    "a reserved bit": (frame(TEXT, b"{}", flags=0xC0), 1002),
    "no mask": (b"\x81\x02{}", 1002),
    "a ping of 126 bytes": (frame(PING, bytes(126)), 1002),
    "a ping in fragments": (frame(PING, b"a", flags=0), 1002),
    "a continuation of nothing": (frame(0, b"a"), 1002),
    "a message within another": (frame(TEXT, b"{", flags=0) + frame(TEXT, b"}"), 1002),
    "a close within a message": (
        frame(BINARY, b"a", flags=0) + frame(CLOSE, struct.pack(">H", 1000)),
        1002,
    ),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with a code of nobody": (frame(CLOSE, struct.pack(">H", 999)), 1002),
    "a close with a code that is not sent": (frame(CLOSE, struct.pack(">H", 1005)), 1002),
    "a close whose reason is no UTF-8": (frame(CLOSE, struct.pack(">H", 1000) + b"\xff"), 1007),
    "a size of 2 to the 63": (frame(BINARY, size=b"\x7f" + struct.pack(">Q", 1 << 63)), 1009),
    "a size above the limit": (frame(TEXT, size=b"\x7f" + struct.pack(">Q", 16 << 20)), 1009),
}


def opened(server: Any, path: str, *early: bytes) -> socket:
    """A session whose handshake is answered; `early` frames are sent with it, or right after."""
    connection = connect(server)
    connection.sendall(head("GET", path, *HANDSHAKE) + b"".join(early[:1]))
    for late in early[1:]:
        connection.sendall(late)
    with connection.makefile("rb", buffering=0) as stream:
        assert b" 101 " in stream.readline()
        while stream.readline() != b"\r\n":
            pass
    return connection


def close_code(connection: socket) -> int:
    """Waits for the end; the code that the server closed with. Its other messages pass by."""
    code = 0
    with connection.makefile("rb") as stream:
        while first := stream.read(2):
            size = first[1] & 127
            if size >= 126:
                size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
            data = stream.read(size)
            if first[0] & 15 == CLOSE:
                code = struct.unpack(">H", data[:2])[0]
    return code


def errors(server: Any) -> list[dict[str, Any]]:
    """What the server has logged as an error, once all of before has been read."""
    request_id = f"frames-{time.monotonic_ns()}"
    httpx.post(f"{server.url}/v1/models/nobody:predict", headers={"x-request-id": request_id})
    server.wait_for_log(request_id)
    return [line for line in server.lines if line["level"] == "error" or "traceback" in line]


def no_session_is_left(server: Any) -> None:
    while server.metric("qwen3_asr_live_sessions"):  # the test's time limit ends it
        time.sleep(0.05)


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_frame_is_closed_with_the_protocols_code(
    server: Any, path: str, kind: str
) -> None:
    broken, expected = BROKEN[kind]
    before = len(errors(server))
    with opened(server, path) as connection:
        connection.sendall(broken)
        assert close_code(connection) == expected
    assert errors(server)[before:] == []
    no_session_is_left(server)


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("is_late", [False, True], ids=["with the handshake", "before its answer"])
def test_frames_that_do_not_wait_for_the_handshake_are_read_after_it(
    server: Any, path: str, is_late: bool
) -> None:
    """They were lost, or met websockets in a state that has no close: a traceback."""
    before = len(errors(server))
    for broken, expected in (BROKEN["a reserved opcode"], BROKEN["text that is no UTF-8"]):
        for _ in range(5):
            with opened(server, path, *([b"", broken] if is_late else [broken])) as connection:
                assert close_code(connection) == expected
    assert errors(server)[before:] == []
    no_session_is_left(server)


@pytest.mark.parametrize("path", DOORS)
def test_the_clients_own_library_sees_the_code(server: Any, path: str) -> None:
    """websockets itself, a session whose second message is broken."""
    url = server.url.replace("http", "ws") + path
    with connect_websocket(url, open_timeout=60) as client:
        assert json.loads(client.recv(timeout=60))["type"] in ("session.created", "ready")
        client.socket.sendall(BROKEN["text that is no UTF-8"][0])
        with pytest.raises(ConnectionClosedError):
            client.recv(timeout=60)
        assert client.close_code == 1007
        assert "UTF-8" in str(client.close_reason)
