"""Real requests with bytes changed, over every protocol: no 5xx, no hang, no growth.

A few hundred in the tests; `make soak` goes on for SOAK_S seconds.
"""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from tests.chaos.sockets import memory_bytes

MODEL = "qwen3-asr"
MIB = 1024 * 1024
SOAK_S = float(os.environ.get("SOAK_S", "0"))
NUM_MUTATIONS = 240
GRPC_REFUSALS = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
Send = Callable[[bytes], None]


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


def _form(speech: bytes) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    return b"".join(
        [
            part % (b"file", b'; filename="a.flac"\r\nContent-Type: audio/flac', speech),
            part % (b"model", b"", MODEL.encode()),
            part % (b"response_format", b"", b"verbose_json"),
            b"--b--\r\n",
        ]
    )


@pytest.fixture(scope="module")
def senders(server: Any, encodings: dict[str, bytes]) -> Iterator[dict[str, tuple[bytes, Send]]]:
    """Protocol -> a valid body, and how to send a mutated one; a 5xx fails."""
    speech = encodings["FLAC"]
    b64 = base64.b64encode(speech).decode()
    tensor = {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [b64]}
    raw = struct.pack("<I", len(speech)) + speech
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]})
    head = head.replace(f', "data": ["{b64}"]', "")
    chat = [{"type": "input_audio", "input_audio": {"data": b64, "format": "flac"}}]
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[raw])
    request.inputs.add(name="audio", datatype="BYTES", shape=[1])
    with httpx.Client(base_url=server.url, timeout=60) as http, \
            grpc.insecure_channel(server.grpc) as channel:  # fmt: skip

        def post(path: str, content_type: str, **more: str) -> Send:
            def send(body: bytes) -> None:
                headers = {"content-type": content_type, **more}
                response = http.post(path, content=body, headers=headers)
                assert response.status_code < 500, response.text

            return send

        def call(message: bytes) -> None:
            code = grpc.StatusCode.OK
            try:
                channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                    message, timeout=60
                )
            except grpc.RpcError as error:
                code = error.code()
            assert code in GRPC_REFUSALS, code

        form = "multipart/form-data; boundary=b"
        plain = _form(speech).replace(b'name="file"', b'name="audio"')
        infer = f"/v2/models/{MODEL}/infer"
        yield {
            "V1": (
                json.dumps({"instances": [{"audio": {"b64": b64}, "language": "en"}]}).encode(),
                post(f"/v1/models/{MODEL}:predict", "application/json"),
            ),
            "V1 raw": (speech, post(f"/v1/models/{MODEL}:predict", "audio/flac")),
            "V2": (json.dumps({"inputs": [tensor]}).encode(), post(infer, "application/json")),
            "V2 binary": (
                head.encode() + raw,
                post(
                    infer,
                    "application/octet-stream",
                    **{"inference-header-content-length": str(len(head))},
                ),
            ),
            "gRPC": (request.SerializeToString(), call),
            "OpenAI": (_form(speech), post("/v1/audio/transcriptions", form)),
            "plain": (plain, post("/api/v1/recognize", form)),
            "chat": (
                json.dumps(
                    {"model": MODEL, "messages": [{"role": "user", "content": chat}]}
                ).encode(),
                post("/v1/chat/completions", "application/json"),
            ),
        }  # fmt: skip


def test_mutated_requests_over_all_protocols(
    server: Any, senders: dict[str, tuple[bytes, Send]], speech: bytes, said: list[dict[str, Any]]
) -> None:
    rng = random.Random(0)
    for body, send in senders.values():
        send(body)
    until = time.monotonic() + SOAK_S
    count, early = 0, 0
    while count < NUM_MUTATIONS or time.monotonic() < until:
        name = rng.choice(sorted(senders))
        body, send = senders[name]
        send(mutated(body, rng))
        count += 1
        if count == NUM_MUTATIONS // 2:
            early = memory_bytes(server)
    print(f"{count} mutated requests")
    assert memory_bytes(server) < 1.1 * early + 64 * MIB
    after = httpx.post(server.url + "/api/v1/recognize", files={"audio": speech}, timeout=60)
    assert after.json()["text"] == said[0]["text"]
    assert server.process.poll() is None
