"""One recording through every protocol of an application that runs in this process."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from prometheus_client import CollectorRegistry

from predictor.server import AsrServer, build_server
from predictor.settings.read import load_settings

MODEL = "qwen3-asr"
CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
Build = Callable[..., AsrServer]


@contextmanager
def building() -> Iterator[Build]:
    """What builds applications with flags, without a listener; they end with the block."""
    built: list[AsrServer] = []

    def make(*flags: str, load: bool = True) -> AsrServer:
        argv = [f"--model_dir={CHECKPOINT}", "--device=cpu", "--max_audio_s=5", *flags]
        settings = load_settings([*argv, "--max_body_bytes=4000000"], {})
        server = build_server(settings, CollectorRegistry())
        built.append(server)
        server.decoder.start()
        if load:
            server.model.load()
        return server

    yield make
    for server in built:
        server.model.stop()
        server.decoder.close()


@dataclass
class Answer:
    """One protocol's answer to a request, in common terms."""

    protocol: str
    status: int | grpc.StatusCode
    code: str
    message: str
    retry_after: str | None


class Local:
    """Sends one recording through every protocol of an application in this process."""

    def __init__(self, http: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self.http = http
        self.channel = channel
        self.stub = GRPCInferenceServiceStub(channel)

    async def everywhere(self, audio: bytes, **fields: str) -> list[Answer]:
        b64 = base64.b64encode(audio).decode()
        form = {"model": MODEL, **fields}
        tensor = {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [b64]}
        instance = {"audio": {"b64": b64}, **fields}
        post = self.http.post
        rest = [
            ("recognize", await post("/api/v1/recognize", files={"audio": audio}, data=fields)),
            (
                "v1",
                await post(f"/v1/models/{MODEL}:predict", json={"instances": [instance]}),
            ),
            (
                "v2",
                await post(
                    f"/v2/models/{MODEL}/infer", json={"inputs": [tensor], "parameters": fields}
                ),
            ),
            ("openai", await post("/v1/audio/transcriptions", files={"file": audio}, data=form)),
        ]
        return [*(self._rest(name, r) for name, r in rest), await self._grpc(audio, **fields)]

    def _rest(self, protocol: str, response: httpx.Response) -> Answer:
        body = response.json()
        if protocol == "openai":
            assert set(body["error"]) == {"message", "type", "param", "code"}
            body = {"error": body["error"]["message"], "code": body["error"]["code"]}
        else:
            assert body["request_id"] == response.headers["x-request-id"]
        retry_after = response.headers.get("retry-after")
        return Answer(protocol, response.status_code, body["code"], body["error"], retry_after)

    async def _grpc(self, audio: bytes, **fields: str) -> Answer:
        request = pb.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="audio", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(audio)) + audio)
        for key, value in fields.items():
            request.parameters[key].string_param = value
        with pytest.raises(grpc.RpcError) as caught:
            await self.stub.ModelInfer(request)
        error: Any = caught.value
        trailing = dict(error.trailing_metadata())
        return Answer(
            "grpc",
            error.code(),
            trailing["error-code"],
            error.details(),
            trailing.get("retry-after"),
        )


@asynccontextmanager
async def local_to(server: AsrServer) -> AsyncIterator[Local]:
    rpc = server.grpc_server()
    port = rpc.add_insecure_port("127.0.0.1:0")
    await rpc.start()
    transport = httpx.ASGITransport(server.app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://local") as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Local(http, channel)
    await rpc.stop(None)
