"""What has hurt a server, all of it at once: bombs, bodies, messages, connections, sessions.

Each attack is a function that attacks once and forgives whatever the server answers, or hangs up.
Bodies and messages are as large as the server takes them.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
import soundfile
import websockets
from websockets.sync.client import connect as connect_websocket

from tests.api.conftest import RECORDINGS
from tests.api.test_grpc_message import HOSTILE as HOSTILE_GRPC
from tests.audio.bombs import compressed_header, fragments
from tests.chaos.sockets import connect, head

MODEL = "qwen3-asr"
MIB = 1024 * 1024
SERVICE = "/inference.GRPCInferenceService/"
PREDICT, INFER = f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"
CLIP = (RECORDINGS / "demo-en-1.flac").read_bytes()
TIMEOUT_S = 120.0

Attack = Callable[["Target"], Counter[str]]


@dataclass(frozen=True)
class Target:
    """A server, and the largest body that it takes."""

    server: Any
    max_body_bytes: int = 64 * MIB

    @property
    def large(self) -> int:
        """Bytes of a body just below that."""
        return self.max_body_bytes - 4 * MIB


def _silences() -> bytes:
    """64 FLACs of a few kB, each of them 20 minutes of silence."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(1200 * 8000, np.int16), 8000, format="FLAC")
    b64 = base64.b64encode(buffer.getvalue()).decode()
    return json.dumps({"instances": [{"audio": {"b64": b64}}] * 64}).encode()


def _tensor(name: str, datatype: str, data: str, shape: str) -> bytes:
    tensor = f'{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":{data}}}'
    return f'{{"inputs":[{tensor}]}}'.encode()


def _strings(size: int) -> bytes:
    count = size // 4
    return _tensor("audio", "BYTES", "[" + '"",' * count + '""]', f"[{count + 1}]")


def _long_string(_: int) -> bytes:
    return _tensor("waveform", "FP32", json.dumps(["a" * MIB, *["b"] * 3000]), "[3001]")


BODIES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "silences": (PREDICT, lambda _: _silences()),
    "one long string among short ones": (INFER, _long_string),
    "millions of empty strings": (INFER, _strings),
    "nested lists": (
        INFER,
        lambda size: _tensor("audio", "BYTES", "[" + "[]," * (size // 4) + "[]]", "[1]"),
    ),
    "a WAV of nothing": (
        PREDICT,
        lambda size: b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * (size // 8),
    ),
    "zeros": (PREDICT, bytes),
    "an index of gigabytes": (PREDICT, lambda _: fragments()),
    "a header of gigabytes": (PREDICT, lambda _: compressed_header()),
    "base64": (
        PREDICT,
        lambda size: b'{"instances":[{"audio":{"b64":"' + b"AAAA" * (size // 4) + b'"}}]}',
    ),
}


def body(kind: str) -> Attack:
    """One of BODIES, whole."""
    path, make = BODIES[kind]

    def attack(target: Target) -> Counter[str]:
        made = make(target.large)
        is_json = made[:1] == b"{"
        kind_of = "application/json" if is_json else "audio/wav"
        response = httpx.post(
            target.server.url + path,
            content=made,
            headers={"content-type": kind_of},
            timeout=TIMEOUT_S,
        )
        return Counter([str(response.status_code)])

    return attack


def stalled_uploads(target: Target) -> Counter[str]:
    """Eight that bring all but 4 MB and stop."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(connect(target.server))
            length = f"content-length: {target.large}"
            with contextlib.suppress(OSError):
                connection.sendall(head("POST", PREDICT, "content-type: audio/wav", length))
                connection.sendall(bytes(target.large - 4 * MIB))
        time.sleep(2)
    return Counter()


def pipelined(target: Target) -> Counter[str]:
    """18 MB of requests ahead of their answers, and a head without an end."""
    for data in (head("GET", "/healthz") * 400_000, b"GET / HTTP/1.1\r\nx: " + b"a" * 18 * MIB):
        with connect(target.server) as connection, contextlib.suppress(OSError):
            connection.settimeout(3)
            connection.sendall(data)
    return Counter()


def idle_connections(target: Target) -> Counter[str]:
    """1,200 that say nothing, or half a head."""
    with contextlib.ExitStack() as stack:
        for index in range(1200):
            with contextlib.suppress(OSError):
                connection = stack.enter_context(connect(target.server))
                if index % 2:
                    connection.sendall(b"POST / HTTP/1.1\r\nx: " + b"a" * 30_000)
        time.sleep(2)
    return Counter()


def _channel(server: Any) -> grpc.Channel:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(server.grpc, options)


def unfinished_messages(target: Target) -> Counter[str]:
    """24 calls with a large message that is none; half of them are streams."""
    message = b"\x3a\x80\x80\x80\x1e" + bytes(target.large)
    made = [_channel(target.server) for _ in range(24)]
    try:
        calls = [
            c.unary_unary(SERVICE + "ModelInfer").future(message, timeout=TIMEOUT_S)
            for c in made[::2]
        ]
        streams = [
            c.stream_stream(SERVICE + "ModelStreamInfer")(iter([message]), timeout=TIMEOUT_S)
            for c in made[1::2]
        ]
        codes = [call.code().name for call in calls]
        for stream in streams:
            with contextlib.suppress(grpc.RpcError):
                list(stream)
        return Counter(codes)
    finally:
        for channel in made:
            channel.close()


def hostile_messages(target: Target) -> Counter[str]:
    """Millions of tiny fields."""
    with _channel(target.server) as channel:
        infer, codes = channel.unary_unary(SERVICE + "ModelInfer"), Counter[str]()
        for message in HOSTILE_GRPC.values():
            try:
                infer(message, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                codes[error.code().name] += 1
    return codes


def large_frames(target: Target) -> Counter[str]:
    """Live sessions that send messages of 14 MB, base64 and plain."""
    url = target.server.url.replace("http", "ws")
    append = json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 14 * MIB})
    for path, message in (
        ("/v1/realtime", append),
        ("/api/v1/live?rate=16000", bytes(14 * MIB)),
    ):
        with (
            contextlib.suppress(websockets.WebSocketException, OSError, TimeoutError),
            connect_websocket(url + path, max_size=None, open_timeout=TIMEOUT_S) as socket,
        ):
            for _ in range(4):
                socket.send(message)
            socket.recv(timeout=5)
    return Counter()


def clips(target: Target) -> Counter[str]:
    """What a server is for, more than it can bear."""
    statuses = Counter[str]()
    with httpx.Client(base_url=target.server.url, timeout=TIMEOUT_S) as http:
        for _ in range(20):
            response = http.post("/api/v1/recognize", files={"audio": CLIP})
            statuses[str(response.status_code)] += 1
    return statuses


ATTACKS: dict[str, Attack] = {
    **{kind: body(kind) for kind in BODIES},
    "stalled uploads": stalled_uploads,
    "pipelined": pipelined,
    "idle connections": idle_connections,
    "unfinished messages": unfinished_messages,
    "hostile messages": hostile_messages,
    "large frames": large_frames,
    "clips": clips,
}


def attack(target: Target, seconds: float, num_threads: int = 6) -> dict[str, dict[str, int]]:
    """All of them for so long, several at a time, in a random order; what was answered."""
    until, lock = time.monotonic() + seconds, threading.Lock()
    answered: dict[str, Counter[str]] = {name: Counter() for name in ATTACKS}
    due: queue.SimpleQueue[str] = queue.SimpleQueue()
    rng = random.Random(1)

    def next_one() -> str:
        with lock:
            if due.empty():
                for name in rng.sample(sorted(ATTACKS), len(ATTACKS)):
                    due.put(name)
            return due.get()

    def work() -> None:
        while time.monotonic() < until:
            name, seen = next_one(), Counter[str]()
            try:
                seen = ATTACKS[name](target)
            except (httpx.HTTPError, OSError) as error:
                seen[type(error).__name__] += 1
            with lock:
                answered[name] += seen + Counter(times=1)

    threads = [threading.Thread(target=work) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: dict(seen) for name, seen in answered.items() if seen}
