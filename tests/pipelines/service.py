"""A small ASR service for the client's tests: it speaks the protocols and knows its answers.

It stands for "any endpoint", not for the predictor: what it says is set by each test, and it
records what it was asked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass
class Said:
    """What a request asked for."""

    audio: bytes
    language: str | None
    context: str | None
    headers: dict[str, str]
    draft: str | None = None


@dataclass
class Service:
    """Answers by the recording's bytes; `failures` are handed out first, one a request."""

    answer: Callable[[bytes], dict[str, Any]] = lambda audio: {"text": audio.decode()}
    failures: list[Response] = field(default_factory=list)
    checkpoint: str | None = None  # what its metrics say; None = it has no metrics
    inputs: tuple[str, ...] = ("audio",)
    asked: list[Said] = field(default_factory=list)
    identity: str | None = None  # in the metadata, as the predictor says it

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v2/models/{model}/infer", self.infer, methods=["POST"]),
                Route("/v2/models/{model}", self.metadata, methods=["GET"]),
                Route("/metrics", self.metrics, methods=["GET"]),
                Route("/v1/audio/transcriptions", self.openai, methods=["POST"]),
            ]
        )

    async def metadata(self, request: Request) -> Response:
        found: dict[str, Any] = {"name": request.path_params["model"]}
        found["inputs"] = [{"name": n, "datatype": "BYTES", "shape": [1]} for n in self.inputs]
        if self.identity is not None:
            found["properties"] = {"model_identity": self.identity, "model_source": "/mnt/models"}
        return JSONResponse(found)

    async def metrics(self, _: Request) -> Response:
        if self.checkpoint is None:
            return Response(status_code=404)
        labels = f'model_name="qwen3-asr",checkpoint="{self.checkpoint}",device="cpu"'
        return Response(f"# TYPE x gauge\nqwen3_asr_model_info{{{labels}}} 1.0\n")

    async def infer(self, request: Request) -> Response:
        body = await request.body()
        split = int(request.headers["Inference-Header-Content-Length"])
        header = json.loads(body[:split])
        given = {}
        for tensor in header["inputs"]:
            assert (tensor["datatype"], tensor["shape"]) == ("BYTES", [1])
            size = tensor["parameters"]["binary_data_size"]
            (length,) = struct.unpack("<I", body[split : split + 4])
            assert length == size - 4
            given[tensor["name"]] = body[split + 4 : split + size]
            split += size
        assert split == len(body)
        assert given.keys() <= set(self.inputs)
        audio = given["audio"]
        parameters = header["parameters"]
        said = Said(
            audio, parameters.get("language"), parameters.get("context"), dict(request.headers),
            given["draft"].decode() if "draft" in given else None,
        )  # fmt: skip
        return self._failure(said) or JSONResponse(v2_body(self.answer(audio)))

    async def openai(self, request: Request) -> Response:
        async with request.form() as form:
            audio = await form["file"].read()  # type: ignore[union-attr]
            fields = {key: str(value) for key, value in form.items() if key != "file"}
        said = Said(audio, fields.get("language"), fields.get("prompt"), dict(request.headers))
        if failure := self._failure(said):
            return failure
        answer = self.answer(audio)
        if fields.get("stream") == "true":
            return StreamingResponse(events(answer), media_type="text/event-stream")
        assert fields["response_format"] == "verbose_json"
        return JSONResponse(answer)

    def _failure(self, said: Said) -> Response | None:
        self.asked.append(said)
        return self.failures.pop(0) if self.failures else None


def v2_body(answer: dict[str, Any]) -> dict[str, Any]:
    """A V2 answer with the outputs that are given."""
    outputs = [
        {"name": "text", "datatype": "BYTES", "shape": [1], "data": [answer["text"]]},
        {"name": "language", "datatype": "BYTES", "shape": [1], "data": [answer.get("language")]},
    ]
    outputs += [
        {"name": name, "datatype": "FP32", "shape": [1], "data": [answer[name]]}
        for name in ("confidence", "duration")
        if name in answer
    ]
    details = json.dumps(answer.get("details", {}))
    outputs.append({"name": "details", "datatype": "BYTES", "shape": [1], "data": [details]})
    return {"model_name": "qwen3-asr", "outputs": outputs}


async def events(answer: dict[str, Any]) -> AsyncIterator[str]:
    """The answer as server-sent events, a word at a time."""
    if "error" in answer:
        yield f"data: {json.dumps({'error': answer['error']})}\n\n"
        return
    for word in answer["text"].split():
        yield f"data: {json.dumps({'type': 'transcript.text.delta', 'delta': word})}\n\n"
    if not answer.get("cut"):
        done = {"type": "transcript.text.done", "text": answer["text"], "usage": {"seconds": 2.0}}
        yield f"data: {json.dumps(done)}\n\n"
