"""One live session through an ingress: speech in, transcript out, and how the session ends."""

from __future__ import annotations

import base64
import json
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.cluster.answers import RECORDING, Entry

COMPLETED = "conversation.item.input_audio_transcription.completed"
CUT = 1006
OPEN_TIMEOUT_S = 300  # Knative holds a handshake until a pod is there
RATE_HZ = 24_000  # of the audio that a session takes unless told otherwise


@dataclass
class Ended:
    """What a session said, and the code by which its connection was closed if it was."""

    code: int | None  # CUT: without a word
    events: list[dict[str, Any]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


def speech() -> bytes:
    """A recording as PCM16, and a second of silence that ends the utterance."""
    samples, rate = soundfile.read(RECORDING, dtype="float32")
    number = round(len(samples) * RATE_HZ / rate)
    resampled = np.interp(np.arange(number) * rate / RATE_HZ, np.arange(len(samples)), samples)
    padded = np.concatenate([resampled, np.zeros(RATE_HZ)])
    return (np.clip(padded, -1, 1) * 32767).astype("<i2").tobytes()


def open_session(entry: Entry, url: str, query: str = "") -> ClientConnection:
    """A WebSocket to a service's host name, by way of the entry's address."""
    host = urlsplit(url).netloc
    address = f"ws://{host}/v1/realtime?intent=transcription{query}"
    if entry.address is None:
        return connect(address, open_timeout=OPEN_TIMEOUT_S)
    way = urlsplit(entry.address)
    sock = socket.create_connection((way.hostname, way.port or 80))
    return connect(address, sock=sock, open_timeout=OPEN_TIMEOUT_S)


def say(session: ClientConnection) -> None:
    """Speaks once; a session that has been closed does not mind."""
    data = speech()
    try:
        for start in range(0, len(data), 96_000):
            piece = base64.b64encode(data[start : start + 96_000]).decode()
            session.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))
    except ConnectionClosed:
        pass  # what it was told before is there to be read


def hear(session: ClientConnection, timeout_s: float, until_heard: bool = False) -> Ended:
    """Listens until the server or somebody in between closes, or to the end of an utterance."""
    ended = Ended(None)
    try:
        while not (until_heard and ended.of(COMPLETED)):
            ended.events.append(json.loads(session.recv(timeout=timeout_s)))
    except ConnectionClosed as closed:
        ended.code = closed.rcvd.code if closed.rcvd else CUT
    return ended


def talk(session: ClientConnection, timeout_s: float) -> Ended:
    """Speaks once, then listens until the connection is closed."""
    say(session)
    return hear(session, timeout_s)
