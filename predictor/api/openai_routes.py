"""OpenAI's routes: transcriptions, chat completions with audio, and the list of models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from predictor.api import openai
from predictor.api.alignments import alignment_call
from predictor.api.chat import chat_call, chat_events
from predictor.api.dataplane import AsrDataPlane
from predictor.api.json_answer import json_answer
from predictor.api.openai_answers import Event, Rendered, model_entry, sse_events
from predictor.api.openapi import openai as openapi
from predictor.api.reading import off_loop, read_body
from predictor.service.calls import Call

IGNORED_HEADER = "x-ignored-fields"
# Proxies hold an answer back until it is whole, unless told that it is a stream.
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

Events = Callable[[Event, AsyncIterator[Event]], AsyncIterator[bytes]]


class PlainRoute(APIRoute):
    """Its endpoint takes the request alone and makes the response: FastAPI has nothing to find out
    for it, nor to close behind it, which would take as long as all other middleware."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def openai_router(dataplane: AsrDataPlane, created: int, prefix: str) -> APIRouter:
    """OpenAI's API under `prefix`; the model list too where KServe does not own its path."""
    router = APIRouter(prefix=prefix, tags=["OpenAI"])

    async def transcriptions(request: Request) -> Response:
        name = dataplane.model.name
        await dataplane.get_model(name)
        token_bytes = dataplane.model.token_bytes
        parsed = await openai.openai_call(
            request, dataplane.served_names, token_bytes, dataplane.cues
        )
        if not parsed.stream:
            return await _answer(dataplane, parsed.call, request, parsed.ignored)
        scored = token_bytes if parsed.with_logprobs else None
        events = dataplane.model.transcribe_stream(parsed.call, dict(request.headers))
        return await _stream(events, lambda f, rest: sse_events(f, rest, scored), parsed.ignored)

    async def chat_completions(request: Request) -> Response:
        await dataplane.get_model(dataplane.model.name)
        body, names = await read_body(request), dataplane.served_names
        parsed = await off_loop(len(body), lambda: chat_call(body, names, created))
        if not parsed.stream:
            return await _answer(dataplane, parsed.call, request, parsed.ignored)
        return await _stream(
            dataplane.model.transcribe_stream(parsed.call, dict(request.headers)),
            lambda first, rest: chat_events(first, rest, parsed, created),
            parsed.ignored,
        )

    async def alignments(request: Request) -> Response:
        name = dataplane.model.name
        await dataplane.get_model(name)
        call = await alignment_call(request)
        return json_answer(await dataplane.call(name, call, dict(request.headers)))

    async def models() -> Response:
        entries = [model_entry(name, created) for name in dataplane.served_names]
        return json_answer({"object": "list", "data": entries})

    async def model(model_name: str) -> Response:
        dataplane.named(model_name)
        return json_answer(model_entry(model_name, created))

    add = router.add_api_route
    post: dict[str, Any] = {"methods": ["POST"], "route_class_override": PlainRoute}
    add("/audio/transcriptions", transcriptions, **post, **openapi.TRANSCRIPTIONS)
    add("/audio/alignments", alignments, **post, **openapi.ALIGNMENTS)
    add("/chat/completions", chat_completions, **post, **openapi.CHAT_COMPLETIONS)
    if prefix != "/v1":
        add("/models", models, methods=["GET"], **openapi.OPENAI_MODELS)
        add("/models/{model_name:model}", model, methods=["GET"], **openapi.OPENAI_MODEL)
    return router


def _ignored(fields: Sequence[str]) -> dict[str, str]:
    return {IGNORED_HEADER: ", ".join(fields)} if fields else {}


async def _answer(
    dataplane: AsrDataPlane, call: Call, request: Request, ignored: Sequence[str]
) -> Response:
    name = dataplane.model.name
    answer: Rendered = await dataplane.call(name, call, dict(request.headers))
    return Response(answer.body, media_type=answer.media_type, headers=_ignored(ignored))


async def _stream(events: AsyncGenerator[Event], say: Events, ignored: Sequence[str]) -> Response:
    try:
        first = await anext(events)  # so that what goes wrong at once is still a status
    except BaseException:
        await events.aclose()
        raise
    return _EventStream(say(first, events), events, _STREAM_HEADERS | _ignored(ignored))


class _EventStream(StreamingResponse):
    """Closes the events whatever happens, so that a client that left frees its place."""

    def __init__(
        self, content: AsyncIterator[bytes], events: AsyncGenerator[Event], headers: dict[str, str]
    ) -> None:
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)
