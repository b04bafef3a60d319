"""The HTTP routes of every protocol: each reads a request, calls the model, answers.

They stand in for KServe's own handlers, which parse before they check and leak what they parsed.
"""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from predictor.api import v2
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.infer_body import parse_rest
from predictor.api.json_answer import json_answer
from predictor.api.openai_answers import model_entry
from predictor.api.openapi import kserve as openapi
from predictor.api.page import Page, wants_page
from predictor.api.reading import off_loop, query_of, read_body, read_recording
from predictor.api.recognize import recognize_call
from predictor.api.v1 import small_body, v1_call
from predictor.errors import NotReady
from predictor.metrics import scrape
from predictor.service.calls import Call

_JSON_LENGTH = "inference-header-content-length"
_QUICK_BYTES = 1 << 20  # of binary tensors
_MODEL = "/models/{model_name:model}"


class ModelName(StringConvertor):
    """A model's name in a path: a hub id has a slash, and what may follow a name is none of it."""

    regex = r"[^/:]+(?:/(?!(?:infer|ready|versions|load|unload)(?:/|$))[^/:]+)*"


def register_model_names() -> None:
    """Teach the router `{model_name:model}`; once, before routes are made."""
    register_url_convertor("model", ModelName())


def _num_to_read(num_bytes: int, json_length: str | None) -> int:
    """Bytes of a V2 body that take time to read: its JSON, where that is apart. Of what follows
    only the parts' lengths are looked at, and texts, which are as quick as copying."""
    length = json_length or ""
    if num_bytes > _QUICK_BYTES or not (length.isascii() and length.isdigit()):
        return num_bytes
    return min(num_bytes, int(length[:19]))


def health_router(
    dataplane: AsrDataPlane, registry: CollectorRegistry | None, page: Page | None
) -> APIRouter:
    """Liveness, readiness and, of a `registry`, metrics; browsers get the page at `/`, if any."""
    router = APIRouter(tags=["health"])

    async def live() -> Response:
        status = await dataplane.live()
        return json_answer(status, 200 if status["status"] == "alive" else 503)

    async def v2_live() -> Response:
        alive = (await dataplane.live())["status"] == "alive"
        return json_answer({"live": alive}, 200 if alive else 503)

    async def v2_ready() -> Response:
        ready = await dataplane.ready()
        return json_answer({"ready": ready}, 200 if ready else 503)

    async def metrics(request: Request) -> Response:
        assert registry is not None
        body, content_type = scrape(registry, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def root(request: Request) -> Response:
        return page.index(request) if page and wants_page(request) else await live()

    router.add_api_route("/", root, methods=["GET"], **openapi.LIVE)
    router.add_api_route("/healthz", live, methods=["GET"], **openapi.LIVE)
    router.add_api_route("/v2/health/live", v2_live, methods=["GET"], **openapi.V2_LIVE)
    router.add_api_route("/v2/health/ready", v2_ready, methods=["GET"], **openapi.V2_READY)
    if registry is not None:
        router.add_api_route("/metrics", metrics, methods=["GET"], **openapi.METRICS)
    return router


def v2_router(dataplane: AsrDataPlane, repository: ClosedRepository) -> APIRouter:
    """The Open Inference Protocol."""
    router = APIRouter(prefix="/v2", tags=["V2"])

    async def metadata() -> Response:
        return json_answer(dataplane.metadata())

    async def models() -> Response:
        return json_answer({"models": [dataplane.model.name]})

    async def load(model_name: str) -> Response:
        await repository.load(model_name)
        return json_answer({"name": model_name, "load": True})

    async def unload(model_name: str) -> Response:
        await repository.unload(model_name)
        return json_answer({"name": model_name, "unload": True})

    add = router.add_api_route
    add("", metadata, methods=["GET"], **openapi.V2_METADATA)
    add("/models", models, methods=["GET"], **openapi.V2_MODELS)
    for action in ("load", "unload"):
        path = f"/repository/models/{{model_name:model}}/{action}"
        add(path, load if action == "load" else unload, methods=["POST"], **openapi.CLOSED)
    _add_model(router, dataplane)
    return router


def _add_model(router: APIRouter, dataplane: AsrDataPlane) -> None:
    """V2's routes of the model, with a version and without."""

    async def model_metadata(model_name: str) -> Response:
        return json_answer(await dataplane.model_metadata(model_name))

    async def model_ready(model_name: str) -> Response:
        if not await dataplane.model_ready(model_name):
            raise NotReady(f"model {model_name} is not ready")
        return json_answer({"name": model_name, "ready": True})

    async def infer(
        model_name: str, request: Request, model_version: str | None = None
    ) -> Response:
        await dataplane.get_model(model_name)
        body, json_length = await read_body(request), request.headers.get(_JSON_LENGTH)

        def read() -> Call:
            parsed = parse_rest(body, json_length)
            return v2.rest_call(parsed, model_name, dataplane.max_items, version=model_version)

        call = await off_loop(_num_to_read(len(body), json_length), read)
        answer: v2.RestAnswer = await dataplane.call(model_name, call, dict(request.headers))
        if answer.json_length is None:
            return Response(answer.body, media_type="application/json")
        return Response(
            answer.body,
            media_type="application/octet-stream",
            headers={_JSON_LENGTH: str(answer.json_length)},
        )

    async def version_metadata(model_name: str, model_version: str) -> Response:
        return json_answer(
            {**await dataplane.model_metadata(model_name), "versions": [model_version]}
        )

    async def version_ready(model_name: str, model_version: str) -> Response:
        return await model_ready(model_name)

    async def version_infer(model_name: str, model_version: str, request: Request) -> Response:
        return await infer(model_name, request, model_version)

    add = router.add_api_route
    version = f"{_MODEL}/versions/{{model_version}}"
    add(f"{version}/infer", version_infer, methods=["POST"], **openapi.V2_INFER)
    add(f"{version}/ready", version_ready, methods=["GET"], **openapi.V2_MODEL_READY)
    add(version, version_metadata, methods=["GET"], **openapi.V2_MODEL_METADATA)
    add(f"{_MODEL}/infer", infer, methods=["POST"], **openapi.V2_INFER)
    add(f"{_MODEL}/ready", model_ready, methods=["GET"], **openapi.V2_MODEL_READY)
    add(_MODEL, model_metadata, methods=["GET"], **openapi.V2_MODEL_METADATA)


def v1_router(dataplane: AsrDataPlane, created: int) -> APIRouter:
    """KServe's V1, whose GET routes OpenAI's clients share: one answer serves both."""
    router = APIRouter(prefix="/v1", tags=["V1"])

    async def models() -> Response:
        entries = [model_entry(name, created) for name in dataplane.served_names]
        return json_answer({"models": [dataplane.model.name], "object": "list", "data": entries})

    async def model_ready(model_name: str) -> Response:
        if not await dataplane.model_ready(model_name):
            raise NotReady(f"model {model_name} is not ready")
        return json_answer({"name": model_name, "ready": True, **model_entry(model_name, created)})

    async def predict(model_name: str, request: Request) -> Response:
        await dataplane.get_model(model_name)
        body, content_type = await read_recording(request), request.headers.get("content-type")
        query, max_items = query_of(request), dataplane.max_items
        call = await off_loop(
            len(body),
            lambda: v1_call(body, content_type, query, max_items),
            small=small_body(content_type),
        )
        return json_answer(await dataplane.call(model_name, call, dict(request.headers)))

    add = router.add_api_route
    add("/models", models, methods=["GET"], **openapi.V1_MODELS)
    add("/models/{model_name:model}", model_ready, methods=["GET"], **openapi.V1_MODEL)
    add("/models/{model_name:model}:predict", predict, methods=["POST"], **openapi.V1_PREDICT)
    return router


def recognize_router(dataplane: AsrDataPlane, *, with_details: bool) -> APIRouter:
    """The plain route: a file in, four fields out."""
    router = APIRouter(tags=["recognize"])

    async def recognize(request: Request) -> Response:
        name = dataplane.model.name
        await dataplane.get_model(name)
        call = await recognize_call(request, with_details=with_details)
        return json_answer(await dataplane.call(name, call, dict(request.headers)))

    path = "/api/v1/recognize"
    router.add_api_route(path, recognize, methods=["POST"], **openapi.RECOGNIZE)
    return router
