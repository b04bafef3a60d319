"""Valid requests of every protocol, ways to break their bytes, and clients that send them fast.

Connections and sessions are kept, and most recordings are a tenth of a second of noise, so that a
mutated request costs little more than what reads it.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import websockets
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket

from tests.chaos.sockets import answer, connect, head

MODEL = "qwen3-asr"
SERVICE = "/inference.GRPCInferenceService/"
TEXT = "Remind me to call my sister at 7:30."
TIMEOUT_S = 120.0  # more is a hang
GRPC_REFUSALS = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
_TOKENS = (b'"', b"{", b"[", b"\\", b"null", b"-1", b"1e999", b"\r\n--b", b"\xff\xff\xff\xff")

Body = tuple[bytes, Callable[["Clients", bytes], None]]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, doubled, or swapped for ones that mean something."""
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(broken))
        choice = rng.random()
        if choice < 0.4:
            broken[place] = rng.choice((0, 255, 0x80, rng.randrange(256)))
        elif choice < 0.6:
            del broken[place : place + rng.randrange(1, 200)]
        elif choice < 0.8:
            broken[place:place] = broken[place : place + rng.randrange(1, 200)]
        else:
            broken[place:place] = rng.choice(_TOKENS)
        if not broken:
            return b"?"
    return bytes(broken)


class Clients:
    """One thread's connections to the server; each sender fails on a 5xx or its like."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.ws_url = server.url.replace("http", "ws")
        self.channel = grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)])
        self._http: socket.socket | None = None
        self._realtime: ClientConnection | None = None
        self._sessions = ExitStack()

    def close(self) -> None:
        self.channel.close()
        self._sessions.close()
        if self._http is not None:
            self._http.close()

    def post(self, path: str, content_type: str, body: bytes, **more: str) -> None:
        if self._http is None:
            self._http = connect(self.server)
            self._http.settimeout(TIMEOUT_S)
        lines = [f"{name}: {value}" for name, value in more.items()]
        lines += [f"content-type: {content_type}", f"content-length: {len(body)}"]
        self._http.sendall(head("POST", path, *lines) + body)
        status, said = answer(self._http)
        if status in (408, 413, 431):  # the server hangs up after these
            self._http.close()
            self._http = None
        assert 200 <= status < 500, (path, status, said)

    def call(self, message: bytes) -> None:
        method = self.channel.unary_unary(SERVICE + "ModelInfer")
        self._grpc(lambda: method(message, timeout=TIMEOUT_S))

    def stream(self, message: bytes) -> None:
        method = self.channel.stream_stream(SERVICE + "ModelStreamInfer")
        self._grpc(lambda: list(method(iter([message, message]), timeout=TIMEOUT_S)))

    def _grpc(self, work: Callable[[], object]) -> None:
        code = grpc.StatusCode.OK
        try:
            work()
        except grpc.RpcError as error:
            code = error.code()
        assert code in GRPC_REFUSALS, code

    def realtime(self, message: bytes) -> None:
        """Whatever the event is, the session answers the next one, or was ended in order."""
        if self._realtime is None:
            session = connect_websocket(self.ws_url + "/v1/realtime", open_timeout=TIMEOUT_S)
            self._realtime = self._sessions.enter_context(session)
        try:
            self._realtime.send(message)
            self._realtime.send('{"type": "session.update", "session": {}}')
            while json.loads(self._realtime.recv(timeout=TIMEOUT_S))["type"] != "session.updated":
                pass
        except websockets.ConnectionClosed:
            assert self._realtime.close_code != 1011, self._realtime.close_reason
            self._realtime = None

    def frames(self, message: bytes) -> None:
        """Plain frames: audio, then a command; the session ends in order."""
        url = self.ws_url + "/api/v1/live?rate=16000"
        with connect_websocket(url, open_timeout=TIMEOUT_S) as session:
            with suppress(websockets.ConnectionClosedOK):
                session.send(message)
                session.send(message.decode("latin-1"))
                session.send('{"type": "end"}')
                while True:
                    session.recv(timeout=TIMEOUT_S)
            assert session.close_code == 1000


def _form(recording: bytes, field: bytes, **fields: str) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    file = part % (field, b'; filename="a.flac"\r\nContent-Type: audio/flac', recording)
    others = [part % (name.encode(), b"", value.encode()) for name, value in fields.items()]
    return b"".join([file, *others, b"--b--\r\n"])


def bodies(recording: bytes, content_type: str) -> dict[str, Body]:
    """Protocol -> a valid body, and how a thread sends a mutated one."""
    b64 = base64.b64encode(recording).decode()
    tensor = {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [b64]}
    raw = struct.pack("<I", len(recording)) + recording
    first = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]})
    first = first.replace(f', "data": ["{b64}"]', "")
    chat = [{"type": "input_audio", "input_audio": {"data": b64, "format": "flac"}}]
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[raw])
    request.inputs.add(name="audio", datatype="BYTES", shape=[1])
    live = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(3200)])
    live.inputs.add(name="audio", datatype="INT16", shape=[1600])
    append = {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(4800)).decode()}
    session = {"type": "transcription", "audio": {"input": {"transcription": {"language": "en"}}}}

    def to(path: str, content_type: str, **more: str) -> Callable[[Clients, bytes], None]:
        return lambda clients, body: clients.post(path, content_type, body, **more)

    form, infer = "multipart/form-data; boundary=b", f"/v2/models/{MODEL}/infer"
    predict = f"/v1/models/{MODEL}:predict"
    instances = {"instances": [{"audio": {"b64": b64}, "language": "en"}]}
    messages = {"model": MODEL, "messages": [{"role": "user", "content": chat}]}
    asked = {"model": MODEL, "response_format": "verbose_json"}
    size = {"inference-header-content-length": str(len(first))}
    return {
        "V1": (json.dumps(instances).encode(), to(predict, "application/json")),
        "V1 raw": (recording, to(predict, content_type)),
        "V2": (json.dumps({"inputs": [tensor]}).encode(), to(infer, "application/json")),
        "V2 binary": (first.encode() + raw, to(infer, "application/octet-stream", **size)),
        "gRPC": (request.SerializeToString(), Clients.call),
        "gRPC stream": (live.SerializeToString(), Clients.stream),
        "OpenAI": (_form(recording, b"file", **asked), to("/v1/audio/transcriptions", form)),
        "plain": (_form(recording, b"audio"), to("/api/v1/recognize", form)),
        "chat": (json.dumps(messages).encode(), to("/v1/chat/completions", "application/json")),
        "alignments": (
            _form(recording, b"file", text=TEXT),
            to("/v1/audio/alignments", form),
        ),
        "jobs": (_form(recording, b"file", model=MODEL), to("/v1/jobs", form)),
        "client secrets": (
            json.dumps({"session": session}).encode(),
            to("/v1/realtime/client_secrets", "application/json"),
        ),
        "realtime": (json.dumps(append).encode(), Clients.realtime),
        "realtime update": (
            json.dumps({"type": "session.update", "session": session}).encode(),
            Clients.realtime,
        ),
        "frames": (bytes(3200), Clients.frames),
        "commands": (b'{"type": "update", "language": "en"}', Clients.frames),
    }


class Counts:
    """How many of each were sent, by all threads."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self._lock = threading.Lock()

    def one(self, name: str) -> int:
        """One more; how many there are now of all."""
        with self._lock:
            self.of[name] = self.of.get(name, 0) + 1
            return self.sum

    @property
    def sum(self) -> int:
        return sum(self.of.values())
