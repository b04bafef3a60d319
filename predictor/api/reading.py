"""Bodies off the wire, and the work on large ones off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, BinaryIO, Final, Protocol, TypeVar

from starlette.requests import HTTPConnection, Request

from predictor.api.json_body import SMALL_BODY_BYTES, load_json
from predictor.api.media import refuse_encoded
from predictor.audio.file_part import MappedFile
from predictor.errors import InvalidInput, Overloaded, PayloadTooLarge

_T = TypeVar("_T")

SPOOLING_KEY: Final = "asr.spooling"  # in the scope: a Spooling, where there is a spool
_WRITE_BYTES: Final = 1 << 20
# Of a body that is searched for a boundary and not read: less than a millisecond, and a thread's
# turn costs half of one. Most recordings of single sentences are smaller.
SEARCHED_BYTES: Final = 2 << 20


class Spooling(Protocol):
    """A body that may lie on disk, as the middleware sees it come in."""

    @property
    def is_to_be_spooled(self) -> bool: ...
    def begin_spooling(self) -> BinaryIO: ...


async def read_body(request: Request) -> bytearray:
    """The whole body, which grows in place: joining chunks would copy it in the event loop.

    Raises UnsupportedMedia for a compressed one.
    """
    refuse_encoded(request.headers.get("content-encoding", ""))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    return body


async def read_recording(request: Request) -> bytearray | MappedFile:
    """The same of a recording or a form with one; a large one lies on disk, where there is a spool.

    Raises UnsupportedMedia, Overloaded.
    """
    refuse_encoded(request.headers.get("content-encoding", ""))
    spooling: Spooling | None = request.scope.get(SPOOLING_KEY)
    body = bytearray()
    file: BinaryIO | None = None
    try:
        async for chunk in request.stream():
            body += chunk
            if file is None and spooling is not None and spooling.is_to_be_spooled:
                file = spooling.begin_spooling()
            if file is not None and len(body) >= _WRITE_BYTES:
                await asyncio.to_thread(_write, file, body)
                body = bytearray()
        if file is None:
            return body
        await asyncio.to_thread(_write, file, body)
        return MappedFile(file)
    except BaseException as error:
        if file is not None:
            file.close()
        if not isinstance(error, OSError):
            raise
        raise Overloaded(f"the spool cannot take a body: {error.strerror}") from error


def _write(file: BinaryIO, data: bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


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


async def off_loop(num_bytes: int, work: Callable[[], _T], *, small: int = SMALL_BODY_BYTES) -> _T:
    """`work` on a body of `num_bytes`: here when that is at most `small`, else in a thread."""
    if num_bytes <= small:
        return work()
    return await asyncio.to_thread(work)


def query_of(request: HTTPConnection) -> dict[str, str]:
    """The query. Raises InvalidInput for a parameter that is given twice."""
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in query:
            shown = name[:60]
            raise InvalidInput(f"query: {shown!r} is given twice", field=shown)
        query[name] = value
    return query
