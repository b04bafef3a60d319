"""Plain sockets to a server, for requests that no client library would send."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx


def connect(server: Any) -> socket.socket:
    """A connection; reads give up after a minute, which is a hang."""
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 80), timeout=60)


def head(method: str, path: str, *headers: str) -> bytes:
    """A request up to its empty line."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *headers, "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer."""
    stream = connection.makefile("rb")
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, stream.read(length)


def code(body: bytes) -> str:
    """The error table's code in an answer."""
    text: str = json.loads(body)["code"]
    return text


def is_closed(connection: socket.socket) -> bool:
    """Waits until the server closes it; False when it sends something instead."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def memory_bytes(server: Any) -> int:
    """Resident memory of the server's process now."""
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def peak_bytes(server: Any) -> int:
    """The most resident memory since the last reset."""
    with open(f"/proc/{server.process.pid}/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def reset_peak(server: Any) -> None:
    """Count the peak anew."""
    with open(f"/proc/{server.process.pid}/clear_refs", "w") as file:
        file.write("5")
