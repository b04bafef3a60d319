"""The HTTP routes of every protocol: each reads a request, calls the model, answers.

They stand in for KServe's own handlers, which parse before they check and leak what they parsed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from fastapi import APIRouter
from prometheus_client import CollectorRegistry, exposition
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from predictor.api import openai, openapi, v2
from predictor.api.alignments import alignment_call
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.infer_body import parse_rest
from predictor.api.page import Page, wants_page
from predictor.api.reading import off_loop, read_body
from predictor.api.recognize import recognize_call
from predictor.api.v1 import v1_call
from predictor.errors import NotReady
from predictor.service.calls import Call

_JSON_LENGTH = "inference-header-content-length"


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")


def health_router(
    dataplane: AsrDataPlane, registry: CollectorRegistry, page: Page | None
) -> APIRouter:
    """Liveness, readiness and metrics; browsers that ask for `/` get the page, if there is one."""
    router = APIRouter(tags=["health"])

    async def live() -> Response:
        status = await dataplane.live()
        return _json(status, 200 if status["status"] == "alive" else 503)

    async def v2_live() -> Response:
        alive = (await dataplane.live())["status"] == "alive"
        return _json({"live": alive}, 200 if alive else 503)

    async def v2_ready() -> Response:
        ready = await dataplane.ready()
        return _json({"ready": ready}, 200 if ready else 503)

    async def metrics(request: Request) -> Response:
        encode, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def root(request: Request) -> Response:
        return page.index(request) if page and wants_page(request) else await live()

    router.add_api_route("/", root, methods=["GET"], **openapi.LIVE)
    router.add_api_route("/healthz", live, methods=["GET"], **openapi.LIVE)
    router.add_api_route("/v2/health/live", v2_live, methods=["GET"], **openapi.V2_LIVE)
    router.add_api_route("/v2/health/ready", v2_ready, methods=["GET"], **openapi.V2_READY)
    router.add_api_route("/metrics", metrics, methods=["GET"], **openapi.METRICS)
    return router


def v2_router(dataplane: AsrDataPlane, repository: ClosedRepository) -> APIRouter:
    """The Open Inference Protocol."""
    router = APIRouter(prefix="/v2", tags=["V2"])

    async def metadata() -> Response:
        return _json(dataplane.metadata())

    async def models() -> Response:
        return _json({"models": [dataplane.model.name]})

    async def model_metadata(model_name: str) -> Response:
        return _json(await dataplane.model_metadata(model_name))

    async def model_ready(model_name: str) -> Response:
        if not await dataplane.model_ready(model_name):
            raise NotReady(f"model {model_name} is not ready")
        return _json({"name": model_name, "ready": True})

    async def infer(model_name: str, request: Request) -> Response:
        await dataplane.get_model(model_name)
        body, json_length = await read_body(request), request.headers.get(_JSON_LENGTH)

        def read() -> Call:
            return v2.rest_call(parse_rest(body, json_length), model_name, dataplane.max_items)

        call = await off_loop(len(body), read)
        answer: v2.RestAnswer = await dataplane.call(model_name, call, dict(request.headers))
        if answer.json_length is None:
            return Response(answer.body, media_type="application/json")
        return Response(
            answer.body,
            media_type="application/octet-stream",
            headers={_JSON_LENGTH: str(answer.json_length)},
        )

    async def load(model_name: str) -> Response:
        await repository.load(model_name)
        return _json({"name": model_name, "load": True})

    async def unload(model_name: str) -> Response:
        await repository.unload(model_name)
        return _json({"name": model_name, "unload": True})

    add = router.add_api_route
    add("", metadata, methods=["GET"], **openapi.V2_METADATA)
    add("/models", models, methods=["GET"], **openapi.V2_MODELS)
    add("/models/{model_name}", model_metadata, methods=["GET"], **openapi.V2_MODEL_METADATA)
    add("/models/{model_name}/ready", model_ready, methods=["GET"], **openapi.V2_MODEL_READY)
    add("/models/{model_name}/infer", infer, methods=["POST"], **openapi.V2_INFER)
    add("/repository/models/{model_name}/load", load, methods=["POST"], **openapi.CLOSED)
    add("/repository/models/{model_name}/unload", unload, methods=["POST"], **openapi.CLOSED)
    return router


def v1_router(dataplane: AsrDataPlane, created: int) -> APIRouter:
    """KServe's V1, whose GET routes OpenAI's clients share: one answer serves both."""
    router = APIRouter(prefix="/v1", tags=["V1"])

    async def models() -> Response:
        name = dataplane.model.name
        entry = openai.model_entry(name, created)
        return _json({"models": [name], "object": "list", "data": [entry]})

    async def model_ready(model_name: str) -> Response:
        if not await dataplane.model_ready(model_name):
            raise NotReady(f"model {model_name} is not ready")
        return _json({"name": model_name, "ready": True, **openai.model_entry(model_name, created)})

    async def predict(model_name: str, request: Request) -> Response:
        await dataplane.get_model(model_name)
        body, content_type = await read_body(request), request.headers.get("content-type")
        query, max_items = dict(request.query_params), dataplane.max_items
        call = await off_loop(len(body), lambda: v1_call(body, content_type, query, max_items))
        return _json(await dataplane.call(model_name, call, dict(request.headers)))

    add = router.add_api_route
    add("/models", models, methods=["GET"], **openapi.V1_MODELS)
    add("/models/{model_name}", model_ready, methods=["GET"], **openapi.V1_MODEL)
    add("/models/{model_name}:predict", predict, methods=["POST"], **openapi.V1_PREDICT)
    return router


def recognize_router(dataplane: AsrDataPlane, *, with_details: bool) -> APIRouter:
    """The plain route: a file in, four fields out."""
    router = APIRouter(tags=["recognize"])

    async def recognize(request: Request) -> Response:
        name = dataplane.model.name
        await dataplane.get_model(name)
        call = await recognize_call(request, with_details=with_details)
        return _json(await dataplane.call(name, call, dict(request.headers)))

    path = "/api/v1/recognize"
    router.add_api_route(path, recognize, methods=["POST"], **openapi.RECOGNIZE)
    return router


def openai_router(dataplane: AsrDataPlane, created: int, prefix: str) -> APIRouter:
    """OpenAI's audio API under `prefix`; the model list too where KServe does not own its path."""
    router = APIRouter(prefix=prefix, tags=["OpenAI"])

    async def transcriptions(request: Request) -> Response:
        name = dataplane.model.name
        await dataplane.get_model(name)
        parsed = await openai.openai_call(request, dataplane.served_names)
        if parsed.stream:
            return await _stream(dataplane, parsed, dict(request.headers))
        answer: openai.Rendered = await dataplane.call(name, parsed.call, dict(request.headers))
        return Response(answer.body, media_type=answer.media_type)

    async def alignments(request: Request) -> Response:
        name = dataplane.model.name
        await dataplane.get_model(name)
        call = await alignment_call(request)
        return _json(await dataplane.call(name, call, dict(request.headers)))

    async def models() -> Response:
        entry = openai.model_entry(dataplane.model.name, created)
        return _json({"object": "list", "data": [entry]})

    async def model(model_name: str) -> Response:
        dataplane.named(model_name)
        return _json(openai.model_entry(model_name, created))

    add = router.add_api_route
    add("/audio/transcriptions", transcriptions, methods=["POST"], **openapi.TRANSCRIPTIONS)
    add("/audio/alignments", alignments, methods=["POST"], **openapi.ALIGNMENTS)
    if prefix != "/v1":
        add("/models", models, methods=["GET"], **openapi.OPENAI_MODELS)
        add("/models/{model_name}", model, methods=["GET"], **openapi.OPENAI_MODEL)
    return router


async def _stream(
    dataplane: AsrDataPlane, parsed: openai.OpenAICall, headers: dict[str, str]
) -> Response:
    events = dataplane.model.transcribe_stream(parsed.call, headers)
    try:
        first = await anext(events)  # so that what goes wrong at once is still a status
    except BaseException:
        await events.aclose()
        raise
    return _EventStream(first, events)


class _EventStream(StreamingResponse):
    """Closes the events whatever happens, so that a client that left frees its place."""

    def __init__(self, first: openai.Event, events: AsyncGenerator[openai.Event]) -> None:
        super().__init__(openai.sse_events(first, events), media_type="text/event-stream")
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)
