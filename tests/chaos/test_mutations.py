"""Real requests with bytes changed, over every protocol: no 5xx, no hang, no growth.

A few hundred in the tests; `make soak` goes on for SOAK_S seconds, several at a time, and writes
results/mutations.json.
"""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import websockets
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from websockets.sync.client import connect as connect_websocket

from tests.bench.environment import describe
from tests.chaos.sockets import memory_bytes

MODEL = "qwen3-asr"
MIB = 1024 * 1024
SOAK_S = float(os.environ.get("SOAK_S", "0"))
NUM_MUTATIONS = 160
GRPC_REFUSALS = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
SERVICE = "/inference.GRPCInferenceService/"
ALIGNER = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny-aligner"
RESULTS = Path(__file__).parent / "results" / "mutations.json"
NUM_THREADS = 4 if SOAK_S else 1
TEXT = "Remind me to call my sister at 7:30."


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
            broken[place:place] = rng.choice((b'"', b"{", b"[", b"\\", b"null", b"-1", b"1e999",
                                              b"\r\n--b", b"\xff\xff\xff\xff"))  # fmt: skip
        if not broken:
            return b"?"
    return bytes(broken)


def _form(speech: bytes, field: bytes, **fields: str) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    file = part % (field, b'; filename="a.flac"\r\nContent-Type: audio/flac', speech)
    others = [part % (name.encode(), b"", value.encode()) for name, value in fields.items()]
    return b"".join([file, *others, b"--b--\r\n"])


class Clients:
    """One thread's connections to the server; each sender fails on a 5xx or its like."""

    def __init__(self, server: Any) -> None:
        self.url = server.url
        self.http = httpx.Client(base_url=server.url, timeout=120)
        self.channel = grpc.insecure_channel(server.grpc)

    def close(self) -> None:
        self.http.close()
        self.channel.close()

    def post(self, path: str, content_type: str, body: bytes, **more: str) -> None:
        headers = {"content-type": content_type, **more}
        response = self.http.post(path, content=body, headers=headers)
        assert response.status_code < 500, response.text

    def call(self, message: bytes) -> None:
        self._grpc(lambda: self.channel.unary_unary(SERVICE + "ModelInfer")(message, timeout=120))

    def stream(self, message: bytes) -> None:
        method = self.channel.stream_stream(SERVICE + "ModelStreamInfer")
        self._grpc(lambda: list(method(iter([message, message]), timeout=120)))

    def _grpc(self, work: Callable[[], object]) -> None:
        code = grpc.StatusCode.OK
        try:
            work()
        except grpc.RpcError as error:
            code = error.code()
        assert code in GRPC_REFUSALS, code

    def realtime(self, message: bytes) -> None:
        """After whatever event the session still answers one that is right."""
        url = self.url.replace("http", "ws") + "/v1/realtime"
        with connect_websocket(url, open_timeout=120) as socket:
            socket.send(message)
            socket.send('{"type": "session.update", "session": {}}')
            while json.loads(socket.recv(timeout=120))["type"] != "session.updated":
                pass

    def frames(self, message: bytes) -> None:
        """The same of plain frames: audio, then a command; the session ends in order."""
        url = self.url.replace("http", "ws") + "/api/v1/live?rate=16000"
        with connect_websocket(url, open_timeout=120) as socket:
            with suppress(websockets.ConnectionClosedOK):
                socket.send(message)
                socket.send(message.decode("latin-1"))
                socket.send('{"type": "end"}')
                while True:
                    socket.recv(timeout=120)
            assert socket.close_code == 1000


@pytest.fixture(scope="module")
def whole(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with every protocol open."""
    folder = tmp_path_factory.mktemp("jobs")
    return start_server(f"--jobs_dir={folder}", "--max_jobs=20", f"--aligner_dir={ALIGNER}")


def _bodies(speech: bytes) -> dict[str, tuple[bytes, Callable[[Clients, bytes], None]]]:
    """Protocol -> a valid body, and how a thread sends a mutated one."""
    b64 = base64.b64encode(speech).decode()
    tensor = {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [b64]}
    raw = struct.pack("<I", len(speech)) + speech
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]})
    head = head.replace(f', "data": ["{b64}"]', "")
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
    size = {"inference-header-content-length": str(len(head))}
    return {
        "V1": (json.dumps(instances).encode(), to(predict, "application/json")),
        "V1 raw": (speech, to(predict, "audio/flac")),
        "V2": (json.dumps({"inputs": [tensor]}).encode(), to(infer, "application/json")),
        "V2 binary": (head.encode() + raw, to(infer, "application/octet-stream", **size)),
        "gRPC": (request.SerializeToString(), Clients.call),
        "gRPC stream": (live.SerializeToString(), Clients.stream),
        "OpenAI": (_form(speech, b"file", **asked), to("/v1/audio/transcriptions", form)),
        "plain": (_form(speech, b"audio"), to("/api/v1/recognize", form)),
        "chat": (json.dumps(messages).encode(), to("/v1/chat/completions", "application/json")),
        "alignments": (_form(speech, b"file", text=TEXT), to("/v1/audio/alignments", form)),
        "jobs": (_form(speech, b"file", model=MODEL), to("/v1/jobs", form)),
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


def test_mutated_requests_over_all_protocols(
    whole: Any, encodings: dict[str, bytes], speech: bytes, said: list[dict[str, Any]]
) -> None:
    bodies = _bodies(encodings["FLAC"])
    lock, until = threading.Lock(), time.monotonic() + SOAK_S
    counts = dict.fromkeys(bodies, 0)
    early = [0]

    def attack(index: int) -> None:
        rng, clients = random.Random(index), Clients(whole)
        for body, send in bodies.values():
            send(clients, body)
        while sum(counts.values()) < NUM_MUTATIONS or time.monotonic() < until:
            name = rng.choice(sorted(bodies))
            body, send = bodies[name]
            send(clients, mutated(body, rng))
            with lock:
                counts[name] += 1
                if sum(counts.values()) == NUM_MUTATIONS // 2:
                    early[0] = memory_bytes(whole)
        clients.close()

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(attack, range(NUM_THREADS)))
    late = memory_bytes(whole)
    assert late < 1.1 * early[0] + 64 * MIB
    after = httpx.post(whole.url + "/api/v1/recognize", files={"audio": speech}, timeout=60)
    assert after.json()["text"] == said[0]["text"]
    assert whole.process.poll() is None
    if SOAK_S:
        figures = {"seconds": SOAK_S, "requests": counts, "sum": sum(counts.values()),
                   "server_errors": 0, "rss_early_mib": early[0] // MIB,
                   "rss_late_mib": late // MIB}  # fmt: skip
        RESULTS.write_text(json.dumps({"machine": describe(), **figures}, indent=1) + "\n")
