"""One request never holds the event loop, nor the interpreter from another thread.

Times are the processor's, of this process, so that a busy machine changes nothing; what is allowed
is measured in the same way beforehand.
"""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from prometheus_client import CollectorRegistry

from predictor.api.grpc_message import read_grpc
from predictor.api.infer_body import parse_rest
from predictor.api.multipart import read_parts
from predictor.api.v1 import v1_call
from predictor.api.v2 import grpc_call, rest_call
from predictor.errors import AsrError
from predictor.server import AsrServer, build_server
from predictor.settings.read import load_settings
from tests.api.test_grpc_message import HOSTILE as HOSTILE_GRPC
from tests.api.test_json_body import HOSTILE as HOSTILE_JSON
from tests.chaos.turns import longest_allowed_s, longest_turn

MODEL = "qwen3-asr"
CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
MIB = 1024 * 1024
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def allowed_s() -> float:
    """The longest that anything may hold the loop, on this machine."""
    return longest_allowed_s()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    argv = [f"--model_dir={CHECKPOINT}", "--device=cpu"]
    argv.append(f"--jobs_dir={tmp_path_factory.mktemp('jobs')}")
    server: AsrServer = build_server(load_settings(argv, {}), CollectorRegistry())
    server.decoder.start()
    server.model.load()
    gc.collect()
    gc.freeze()  # as a start does: to look through all that was imported takes too long
    yield server.app
    gc.unfreeze()
    server.model.stop()
    server.decoder.close()


async def _post(app: Any, path: str, body: bytes, content_type: str, method: str = "POST") -> int:
    """The status; the body comes in as a socket gives it."""
    pieces = iter([body[start : start + 65536] for start in range(0, len(body), 65536)])
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        piece = next(pieces, b"")
        if piece:
            return {"type": "http.request", "body": piece, "more_body": True}
        if ended:
            await asyncio.Event().wait()
        ended.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    ended: list[bool] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(b"content-type", content_type.encode())],
        "http_version": "1.1", "scheme": "http", "root_path": "", "client": None, "server": None,
    }  # fmt: skip
    await app(scope, receive, send)
    return statuses[0]


BODIES: dict[str, tuple[str, bytes, str]] = {
    **{
        f"V2, {kind}": (f"/v2/models/{MODEL}/infer", body, "application/json")
        for kind, body in HOSTILE_JSON.items()
    },
    "V1, instances": (
        f"/v1/models/{MODEL}:predict",
        b'{"instances":[' + b",".join([b"{}"] * 2 * MIB) + b"]}",
        "application/json",
    ),
    "V1, base64 of no audio": (
        f"/v1/models/{MODEL}:predict",
        b'{"instances":[{"audio":{"b64":"' + b"AAAA" * 4 * MIB + b'"}}]}',
        "application/json",
    ),
    "chat, a long context": (
        "/v1/chat/completions",
        json.dumps(
            {"model": MODEL, "messages": [{"role": "system", "content": "a b " * 2 * MIB}]}
        ).encode(),
        "application/json",
    ),
    **{
        f"a client secret, {kind}": ("/v1/realtime/client_secrets", body, "application/json")
        for kind, body in HOSTILE_JSON.items()
    },
    "alignments, a long text": (
        "/v1/audio/alignments",
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + bytes(8 * MIB)
        + b'\r\n--b\r\nContent-Disposition: form-data; name="text"\r\n\r\n'
        + b"a " * 120 * 1024
        + b"\r\n--b--\r\n",
        "multipart/form-data; boundary=b",
    ),
    "a job of a large file": (
        "/v1/jobs",
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + b"\r\n-" * 4 * MIB
        + b"\r\n--b--\r\n",
        "multipart/form-data; boundary=b",
    ),
    "a form without an end": (
        "/api/v1/recognize",
        b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n'
        + b"\r\n--" * 4 * MIB,
        "multipart/form-data; boundary=b",
    ),
    "a form of many parts": (
        "/api/v1/recognize",
        b"--b\r\n\r\n\r\n" * MIB,
        "multipart/form-data; boundary=b",
    ),
}


@pytest.mark.parametrize("path", ["/openapi.json", "/metrics", "/v1/models", "/v1/jobs"])
async def test_no_answer_holds_the_loop(app: Any, allowed_s: float, path: str) -> None:
    with longest_turn() as longest:
        assert await _post(app, path, b"", "text/plain", method="GET") == 200
    assert longest[0] < allowed_s


@pytest.mark.parametrize("kind", BODIES)
async def test_no_body_holds_the_loop(app: Any, allowed_s: float, kind: str) -> None:
    path, body, content_type = BODIES[kind]
    with longest_turn() as longest:
        status = await _post(app, path, body, content_type)
    assert 400 <= status < 500
    assert longest[0] < allowed_s


@contextmanager
def _longest_hold() -> Iterator[list[float]]:
    """The longest that another thread waits for the interpreter: in the processor's time of this
    process, and without the time that the other thread waits for a processor."""
    longest, is_over = [0.0], threading.Event()

    def tick() -> None:
        last_cpu, last = time.process_time(), time.monotonic() - _run_delay_s()
        while not is_over.is_set():
            time.sleep(0.001)
            cpu, now = time.process_time(), time.monotonic() - _run_delay_s()
            longest[0] = max(longest[0], min(cpu - last_cpu, now - last))
            last_cpu, last = cpu, now

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield longest
    finally:
        is_over.set()
        thread.join()


def _run_delay_s() -> float:
    """How long this thread has waited for a processor; 0 where the kernel does not count it."""
    try:
        fields = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:
        return 0.0
    return int(fields[1]) / 1e9


def _large_waveform() -> bytes:
    tensor = {"name": "waveform", "datatype": "FP32", "shape": [4 * MIB], "data": []}
    head = json.dumps({"parameters": {"sample_rate": 16000}, "inputs": [tensor]}).encode()
    return head.replace(b"[]", b"[" + b",".join([b"0.25"] * 4 * MIB) + b"]")


def _large_grpc() -> bytes:
    request = pb.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="audio", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(bytes(32 * MIB))
    message: bytes = request.SerializeToString()
    return message


KIND = "multipart/form-data; boundary=b"
FORM = bytearray(b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n')
READS: dict[str, Callable[[], object]] = {
    "a waveform": lambda: rest_call(parse_rest(WAVEFORM, None), MODEL, 4),
    "base64": lambda: v1_call(BASE64, "application/json", {}, 4),
    "a form": lambda: read_parts(FORM + bytes(32 * MIB) + b"\r\n--b--", KIND, 4),
    "gRPC": lambda: grpc_call(read_grpc(GRPC), 4),
    **{
        f"gRPC, {kind}": lambda message=message: grpc_call(read_grpc(message), 4)  # type: ignore[misc]
        for kind, message in HOSTILE_GRPC.items()
    },
}
WAVEFORM, GRPC = _large_waveform(), _large_grpc()
BASE64 = b'{"instances":[{"audio":{"b64":"' + b"AAAA" * 6 * MIB + b'"}}]}'


@pytest.mark.parametrize("kind", READS)
async def test_no_thread_holds_the_interpreter(allowed_s: float, kind: str) -> None:
    began = time.process_time()
    orjson.loads(WAVEFORM)
    at_once_s = time.process_time() - began
    with _longest_hold() as longest, suppress(AsrError):
        READS[kind]()
    # A turn waits for the interpreter's switch, and both threads' work counts meanwhile.
    assert longest[0] < max(3 * allowed_s, at_once_s / 4)
