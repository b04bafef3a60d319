"""HEAD and OPTIONS on every route, for the monitors and browsers that send them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.api.errors import answer_error, error_response, speaks_openai
from predictor.errors import NotFound

EXPOSED_HEADERS = ("x-request-id", "x-ignored-fields", "retry-after")


class HeadAndOptions:
    """HEAD is answered as GET without its body; OPTIONS says the methods of a route."""

    def __init__(self, app: ASGIApp, routes: Sequence[object]) -> None:
        self.app = app
        self.routes = routes  # the application's own list, which grows until it serves

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["type"] == "http" else None
        if method == "HEAD":
            await self.app({**scope, "method": "GET"}, receive, _without_body(send))
        elif method == "OPTIONS":
            await self._options(scope)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _options(self, scope: Scope) -> Response:
        methods = self._methods(scope)
        if not methods:
            error = answer_error(scope, NotFound("no such route"))
            return error_response(error, openai=speaks_openai(scope["path"]))
        if "GET" in methods:
            methods.add("HEAD")
        return Response(
            status_code=204, headers={"allow": ", ".join(sorted(methods | {"OPTIONS"}))}
        )

    def _methods(self, scope: Scope) -> set[str]:
        found: set[str] = set()
        for route in self.routes:
            if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
                found |= route.methods or set()
        return found


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head


class Cors(CORSMiddleware):
    """Browsers' pages from the origins that the operator named, and from no other."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "OPTIONS"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )
