"""HEAD and OPTIONS on every route, for the monitors and browsers that send them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.api.errors import answer_error, error_response, speaks_openai
from predictor.api.nowhere import Nowhere

_METHODS = ("GET", "POST", "DELETE")  # that any route has
EXPOSED_HEADERS = ("x-request-id", "x-model-identity", "x-ignored-fields", "retry-after")


class HeadAndOptions:
    """HEAD is answered as GET without its body; OPTIONS says the methods of a route."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], nowhere: Nowhere) -> None:
        self.app = app
        self.routes = routes  # the application's own list, which grows until it serves
        self.nowhere = nowhere

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
            error = answer_error(scope, self.nowhere.error(scope["path"]))
            return error_response(error, openai=speaks_openai(scope["path"]))
        if "GET" in methods:
            methods.add("HEAD")
        return Response(
            status_code=204, headers={"allow": ", ".join(sorted(methods | {"OPTIONS"}))}
        )

    def _methods(self, scope: Scope) -> set[str]:
        """Those of all routes of this path; routers that hold routes can only be asked."""
        return {
            method
            for method in _METHODS
            for route in self.routes
            if route.matches({**scope, "method": method})[0] is Match.FULL
        }


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
            allow_methods=("GET", "HEAD", "POST", "DELETE", "OPTIONS"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )
