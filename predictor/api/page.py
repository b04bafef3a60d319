"""`GET /`: a page to speak into, for browsers; everybody else still gets the liveness answer.

Static files of this package, read once, under a policy that lets them load nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from predictor.errors import NotFound

FOLDER: Final = Path(__file__).parents[1] / "page"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> _File:
        body = path.read_bytes()
        digest = hashlib.sha256(body).hexdigest()[:16]
        return cls(body, _TYPES[path.suffix], f'"{digest}"')

    def answer(self, request: Request) -> Response:
        headers = {**_HEADERS, "etag": self.tag}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


def wants_page(request: Request) -> bool:
    """Whether a browser asks, and no probe."""
    return "text/html" in request.headers.get("accept", "")


class Page:
    """The files in memory."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.name: _File.read(path) for path in folder.iterdir() if path.suffix in _TYPES
        }

    def index(self, request: Request) -> Response:
        """The page itself."""
        return self._files["index.html"].answer(request)

    def file(self, name: str, request: Request) -> Response:
        """One of its files. Raises NotFound."""
        if name not in self._files or name == "index.html":
            raise NotFound("no such route")
        return self._files[name].answer(request)


def page_router(page: Page) -> APIRouter:
    """What the page loads. `/` itself belongs to the health routes."""
    router = APIRouter(prefix="/page", include_in_schema=False)

    async def file(name: str, request: Request) -> Response:
        return page.file(name, request)

    router.add_api_route("/{name}", file, methods=["GET"])
    return router
