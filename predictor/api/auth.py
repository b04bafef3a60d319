"""API keys, when the operator set any: asked of every request that makes the model work.

Probes, metadata and metrics stay open, since those who read them carry no key.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.api.errors import answer_error, error_response, speaks_openai
from predictor.errors import Unauthorized

_OPEN_METHODS = ("GET", "HEAD")


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
    """Refuses requests without a key before their body is read."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _OPEN_METHODS:
            try:
                self.keys.check(Headers(scope=scope))
            except Unauthorized as exc:
                error = answer_error(scope, exc)
                response = error_response(error, openai=speaks_openai(scope["path"]))
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
