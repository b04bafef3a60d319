"""API keys, when the operator set any: asked of every request that makes the model work.

Probes, metadata and metrics stay open, since those who read them carry no key.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.api.errors import answer_error, error_response, speaks_openai
from predictor.errors import Unauthorized

_OPEN_METHODS = ("GET", "HEAD", "OPTIONS")


class KeyRing:
    """The keys that are accepted; empty = all requests are."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises Unauthorized unless `authorization: Bearer KEY` or `x-api-key: KEY` has a key."""
        if not self._keys:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every key is compared, each in constant time, so that timing tells nothing.
        matches = [hmac.compare_digest(key, given.encode()) for key in self._keys]
        if not any(matches):
            what = "wrong" if given else "missing"
            raise Unauthorized(f"API key {what}: send it as authorization: Bearer KEY")


class RequireKey:
    """Refuses requests without a key before their body is read, and what is neither HTTP nor a
    WebSocket at all.

    A WebSocket is asked for its key in the handshake, whatever its route.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise RuntimeError(f"a scope of type {scope['type']!r} is not served")
        if scope["type"] == "http" and scope["method"] in _OPEN_METHODS:
            await self.app(scope, receive, send)
            return
        try:
            self.keys.check(Headers(scope=scope))
        except Unauthorized as exc:
            error = answer_error(scope, exc)
            response = error_response(error, openai=speaks_openai(scope["path"]))
            await refuse(scope, receive, send, response)
            return
        await self.app(scope, receive, send)


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
