"""API keys, when the operator set any: asked of every request that makes the model work.

Probes, metadata and metrics stay open, since those who read them carry no key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.api.errors import answer_error, error_response, speaks_openai
from predictor.api.key_file import KeyFile
from predictor.errors import NotFound, Unauthorized
from predictor.logs import note

_OPEN_METHODS = ("GET", "HEAD", "OPTIONS")


class KeyRing:
    """The keys that are accepted, by name; none, and no file of them = all requests are."""

    def __init__(self, keys: Sequence[str], file: KeyFile | None = None) -> None:
        """`file`: further keys, which may change."""
        self._fixed = {f"key-{i}": key.encode() for i, key in enumerate(keys, start=1)}
        self._file = file

    def current(self) -> Mapping[str, bytes]:
        """Name -> key."""
        return self._fixed if self._file is None else {**self._fixed, **self._file.current()}

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises Unauthorized unless `authorization: Bearer KEY` or `x-api-key: KEY` has a key."""
        self.owner(headers)

    def owner(self, headers: Mapping[str, str]) -> str:
        """Who holds the request's key, as a digest that does not tell the key; "" where none is
        asked for. Raises Unauthorized as `check` does."""
        keys = self.current()
        if not keys:
            return ""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every key is compared, each in constant time, so that timing tells nothing.
        matches = [n for n, key in keys.items() if hmac.compare_digest(key, given.encode())]
        if matches:
            note(key=matches[0])
        else:
            what = "wrong" if given else "missing"
            raise Unauthorized(f"API key {what}: send it as authorization: Bearer KEY")
        return hashlib.sha256(given.encode()).hexdigest()


class RequireKey:
    """Refuses requests without a key before their body is read, WebSockets to which no route leads,
    and what is neither.

    A route of WebSockets asks for the key itself, in the handshake: browsers have other ways to
    send one there.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.keys = keys
        self.routes = routes  # the application's own list, which grows until it serves

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except (Unauthorized, NotFound) as exc:
            error = answer_error(scope, exc)
            response = error_response(error, openai=speaks_openai(scope["path"]))
            await refuse(scope, receive, send, response)
            return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        kind = scope["type"]
        if kind == "http" and scope["method"] not in _OPEN_METHODS:
            self.keys.check(Headers(scope=scope))
        elif kind == "websocket":
            if not any(route.matches(scope)[0] is Match.FULL for route in self.routes):
                raise NotFound("no such route")
        elif kind not in ("http", "lifespan"):
            raise RuntimeError(f"a scope of type {kind!r} is not served")


async def refuse(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    """Answer a request, or a WebSocket's handshake, with an error."""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send_denial(scope, send, response)
        return
    await response(scope, receive, send)


async def send_denial(scope: Scope, send: Send, response: Response) -> None:
    """The response in place of a handshake; servers that know no such thing close it: 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    head = {"status": response.status_code, "headers": response.raw_headers}
    await send({"type": "websocket.http.response.start", **head})
    await send({"type": "websocket.http.response.body", "body": response.body})
