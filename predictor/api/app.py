"""The ASGI application: routes, the middleware around them, and errors from the table."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from predictor import __version__
from predictor.api.auth import KeyRing, RequireKey
from predictor.api.body_limit import BodyLimit
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.errors import answer_error, error_response, speaks_openai
from predictor.api.held_bytes import HeldBytes
from predictor.api.jobs import JobDoor, jobs_router
from predictor.api.json_answer import json_answer
from predictor.api.live_frames import live_router
from predictor.api.methods import Cors, HeadAndOptions
from predictor.api.middleware import (
    ClientGone,
    Deadline,
    RequestContext,
    ReserveForProbes,
)
from predictor.api.nowhere import JOBS, METRICS, PAGE, Nowhere
from predictor.api.openai_routes import openai_router
from predictor.api.page import Page, page_router
from predictor.api.realtime import LiveDoor, realtime_router
from predictor.api.refuse_when_full import RefuseWhenFull
from predictor.api.routes import (
    health_router,
    recognize_router,
    register_model_names,
    v1_router,
    v2_router,
)
from predictor.api.spool import Spool
from predictor.metrics import Metrics


@dataclass(frozen=True, slots=True)
class AppOptions:
    """What an operator may change about the routes."""

    max_body_bytes: int
    request_timeout_s: float
    client_timeout_s: float  # for a body to bring more
    cors_origins: tuple[str, ...]  # whose pages may send requests from a browser
    recognize_details: bool  # whether `/api/v1/recognize` answers with `details` as well
    has_metrics: bool = True  # not when they have a port of their own
    has_page: bool = False  # whether browsers get a page at `/`


def create_app(
    dataplane: AsrDataPlane,
    repository: ClosedRepository,
    metrics: Metrics,
    keys: KeyRing,
    live: LiveDoor,
    held: HeldBytes,
    options: AppOptions,
    spool: Spool | None = None,
    jobs: JobDoor | None = None,
) -> FastAPI:
    """Everything a client can reach over HTTP; without `jobs` there are no such routes."""
    app = FastAPI(
        title="Qwen3-ASR on KServe",
        description="Speech recognition over KServe V1 and V2, OpenAI's API and a plain route.",
        version=__version__,
        openapi_url=None,  # below
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    register_model_names()
    nowhere = Nowhere(_off(options, jobs))
    _add_routes(app, dataplane, repository, metrics, live, options, jobs)
    _wrap(app, dataplane, metrics, keys, held, options, spool, nowhere)
    document = app.openapi()  # made now: it takes a tenth of a second, which no request should cost

    async def described() -> Response:
        return json_answer(document)

    app.add_api_route("/openapi.json", described, methods=["GET"], include_in_schema=False)
    # They are looked through one by one: those that recordings are sent to come first.
    app.router.routes.sort(key=lambda route: getattr(route, "methods", None) != {"POST"})
    return app


def _wrap(
    app: FastAPI,
    dataplane: AsrDataPlane,
    metrics: Metrics,
    keys: KeyRing,
    held: HeldBytes,
    options: AppOptions,
    spool: Spool | None,
    nowhere: Nowhere,
) -> None:
    """What stands around all routes: errors, limits, keys, counting."""
    _add_answers(app, nowhere)
    app.add_middleware(ClientGone)  # the last added is the outermost
    app.add_middleware(
        BodyLimit,
        max_body_bytes=options.max_body_bytes,
        held=held,
        client_timeout_s=options.client_timeout_s,
        spool=spool,
    )
    app.add_middleware(RequireKey, keys=keys, routes=app.routes)
    app.add_middleware(HeadAndOptions, routes=app.routes, nowhere=nowhere)
    app.add_middleware(ReserveForProbes)
    app.add_middleware(Deadline, timeout_s=options.request_timeout_s)
    app.add_middleware(RequestContext, metrics=metrics, model_identity=dataplane.model_digest)
    app.add_middleware(
        RefuseWhenFull,
        check_room=lambda: dataplane.model.check_room(),
        keys=keys,
        metrics=metrics,
        model_identity=dataplane.model_digest,
    )
    if options.cors_origins:  # outside, so that a browser may read every refusal
        app.add_middleware(Cors, origins=options.cors_origins)


def _add_routes(
    app: FastAPI,
    dataplane: AsrDataPlane,
    repository: ClosedRepository,
    metrics: Metrics,
    live: LiveDoor,
    options: AppOptions,
    jobs: JobDoor | None,
) -> None:
    created = int(time.time())
    page = Page() if options.has_page else None
    _add(app, health_router(dataplane, metrics.registry if options.has_metrics else None, page))
    if page is not None:
        _add(app, page_router(page))
    _add(app, recognize_router(dataplane, with_details=options.recognize_details))
    _add(app, openai_router(dataplane, created, "/v1"))
    _add(app, openai_router(dataplane, created, "/openai/v1"))
    for prefix in ("/v1", "/openai/v1"):
        _add(app, realtime_router(live, prefix))
    _add(app, live_router(live))
    if jobs is not None:
        _add(app, jobs_router(dataplane, jobs))
    _add(app, v1_router(dataplane, created))
    _add(app, v2_router(dataplane, repository))


def _off(options: AppOptions, jobs: JobDoor | None) -> dict[str, str]:
    """What the settings leave out, by path."""
    left_out = {JOBS: jobs is None, PAGE: not options.has_page, METRICS: not options.has_metrics}
    return dict(each for each, is_off in left_out.items() if is_off)


def create_admin_app(dataplane: AsrDataPlane, metrics: Metrics) -> FastAPI:
    """Health and metrics alone, for a port that callers do not reach."""
    app = FastAPI(title="Qwen3-ASR on KServe, health and metrics", version=__version__,
                  openapi_url=None, docs_url=None, redoc_url=None)  # fmt: skip
    _add(app, health_router(dataplane, metrics.registry, None))
    nowhere = Nowhere({})
    _add_answers(app, nowhere)
    app.add_middleware(HeadAndOptions, routes=app.routes, nowhere=nowhere)
    return app


def _add(app: FastAPI, router: APIRouter) -> None:
    """The routes themselves: FastAPI looks through the routes of an included router twice for each
    request, 0.3 ms for the last of them."""
    app.router.routes.extend(router.routes)


def _add_answers(app: FastAPI, nowhere: Nowhere) -> None:
    """Errors from the table, whoever raises them."""

    async def answer(request: Request, exc: Exception) -> Response:
        if isinstance(exc, HTTPException) and exc.status_code == 404:
            exc = nowhere.error(request.url.path)
        error = answer_error(request.scope, exc)
        return error_response(error, openai=speaks_openai(request.url.path))

    app.add_exception_handler(HTTPException, answer)
    app.add_exception_handler(RequestValidationError, answer)
