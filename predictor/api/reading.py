"""Bodies off the wire, and the work on large ones off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request

from predictor.api.json_body import SMALL_BODY_BYTES, load_json
from predictor.api.media import refuse_encoded
from predictor.errors import InvalidInput, PayloadTooLarge

_T = TypeVar("_T")


async def read_body(request: Request) -> bytearray:
    """The whole body, which grows in place: joining chunks would copy it in the event loop.

    Raises UnsupportedMedia for a compressed one.
    """
    refuse_encoded(request.headers.get("content-encoding", ""))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    return body


async def read_small_json(request: Request) -> dict[str, Any]:
    """A JSON object of a few settings, {} for an empty body. Raises InvalidInput,
    UnsupportedMedia, and PayloadTooLarge before more is read."""
    refuse_encoded(request.headers.get("content-encoding", ""))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > SMALL_BODY_BYTES:
            raise PayloadTooLarge(
                f"body: more than {SMALL_BODY_BYTES} bytes", field="body", limit=SMALL_BODY_BYTES
            )
    return load_json(body) if body else {}


async def off_loop(num_bytes: int, work: Callable[[], _T]) -> _T:
    """`work` on a body of `num_bytes`: here when it is small, else in a thread."""
    if num_bytes <= SMALL_BODY_BYTES:
        return work()
    return await asyncio.to_thread(work)


def query_of(request: Request) -> dict[str, str]:
    """The query. Raises InvalidInput for a parameter that is given twice."""
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in query:
            shown = name[:60]
            raise InvalidInput(f"query: {shown!r} is given twice", field=shown)
        query[name] = value
    return query
