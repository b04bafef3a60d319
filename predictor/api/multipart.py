"""Multipart bodies (RFC 7578) as clients really send them, without a copy of what they hold.

Read from the whole body, in memory or on disk, so that a file is a view of it: a preamble,
`filename*`, parts without a filename and boundaries of any length are no trouble, and large files
are searched in short steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from mmap import mmap
from typing import Final

from predictor.audio.file_part import forget
from predictor.errors import InvalidInput

_MAX_HEAD_BYTES: Final = 16 * 1024  # headers of one part
_SEARCH_BYTES: Final = 1024 * 1024  # looked through at once while the interpreter is held
_MAX_BOUNDARY_BYTES: Final = 200  # RFC 2046 says 70
# A quote without an end is looked for through all of the headers, once for each of them.
_MAX_PARAMETERS: Final = 8
_BOUNDARY: Final = re.compile(r';\s*boundary\s*=\s*(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_PARAMETER: Final = re.compile(
    r';\s*(name|filename\*?)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', re.IGNORECASE
)
# As nearly all clients write both: read without the expressions, whose code a request that comes
# alone finds in no cache.
_USUAL_TYPE: Final = "multipart/form-data; boundary="
_USUAL_PARAMETERS: Final = {
    ("form-data; name=", ""): ("name",),
    ("form-data; name=", "; filename=", ""): ("name", "filename"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form."""

    name: str
    is_file: bool  # it has a file name
    content_type: str | None
    data: memoryview


def read_parts(body: bytearray | mmap, content_type: str, max_parts: int) -> list[Part]:
    """The parts of a `multipart/form-data` body. Raises InvalidInput naming what is wrong."""
    return [_part(view) for view in _split(body, _boundary(content_type), max_parts)]


def _boundary(content_type: str) -> bytes:
    boundary = content_type.removeprefix(_USUAL_TYPE)
    if boundary == content_type or not boundary.replace("-", "").isalnum():
        match = _BOUNDARY.search(content_type)
        boundary = (match[1] or match[2]) if match else ""
    if not 1 <= len(boundary) <= _MAX_BOUNDARY_BYTES:
        raise InvalidInput(
            f"content-type: needs a boundary of 1 to {_MAX_BOUNDARY_BYTES} characters",
            field="content-type",
            limit=_MAX_BOUNDARY_BYTES,
        )
    return boundary.encode("latin-1")


def _split(body: bytearray | mmap, boundary: bytes, max_parts: int) -> Iterator[memoryview]:
    """What stands between the boundaries; what stands before the first and after the last is not
    of the form."""
    view, opening, delimiter = memoryview(body), b"--" + boundary, b"\r\n--" + boundary
    begins = body[: len(opening)] == opening
    position = 0 if begins else _find(body, delimiter, 0) + 2
    if position < 2 and not begins:
        raise InvalidInput("body: its first boundary is missing", field="body")
    for _ in range(max_parts + 1):
        position += len(opening)
        if body[position : position + 2] == b"--":
            return
        start = body.find(b"\r\n", position, position + 256)
        if start < 0 or body[position:start].strip(b" \t"):
            raise InvalidInput("body: no line ends behind a boundary", field="body")
        end = _find(body, delimiter, start)
        if end < 0:
            raise InvalidInput("body: ends before its last boundary", field="body")
        yield view[start + 2 : max(end, start + 2)]
        position = end + 2
    raise InvalidInput(
        f"body: more than {max_parts} parts in the form", field="body", limit=max_parts
    )


def _find(body: bytearray | mmap, needle: bytes, start: int) -> int:
    """`body.find`, in steps; -1 when it is nowhere."""
    if isinstance(body, bytearray) and len(body) - start <= _SEARCH_BYTES:
        return body.find(needle, start)
    view = memoryview(body)
    for step in range(start, len(body), _SEARCH_BYTES):
        found = body.find(needle, step, step + _SEARCH_BYTES + len(needle))
        forget(view[step : step + _SEARCH_BYTES])
        if found >= 0:
            return found
    return -1


def _part(view: memoryview) -> Part:
    head = bytes(view[:_MAX_HEAD_BYTES])
    end = 0 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n")
    if end < 0:
        raise InvalidInput(
            f"body: the headers of a part do not end within {_MAX_HEAD_BYTES} bytes",
            field="body",
            limit=_MAX_HEAD_BYTES,
        )
    headers = _headers(head[:end])
    disposition = headers.get("content-disposition", "")
    parameters = parameters_of(disposition)
    if not disposition.lower().startswith("form-data") or "name" not in parameters:
        raise InvalidInput("body: a part has no name", field="body")
    encoding = headers.get("content-transfer-encoding", "binary").lower()
    if encoding not in ("binary", "8bit", "7bit"):
        raise InvalidInput(
            f"content-transfer-encoding: {encoding[:60]!r} is not accepted, send binary",
            field="content-transfer-encoding",
        )
    return Part(
        name=parameters["name"],
        is_file="filename" in parameters or "filename*" in parameters,
        content_type=headers.get("content-type"),
        data=view[end + (2 if end == 0 else 4) :],
    )


def _headers(head: bytes) -> dict[str, str]:
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput("body: the headers of a part are not UTF-8", field="body") from error
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def parameters_of(disposition: str) -> dict[str, str]:
    """Names and file names in a header, unquoted."""
    quoted = disposition.split('"')
    names = _USUAL_PARAMETERS.get(tuple(quoted[::2]))
    if names is not None and len(quoted) % 2 and "\\" not in disposition:  # all quotes end
        return dict(zip(names, quoted[1::2], strict=True))
    return found_parameters(disposition)


def found_parameters(disposition: str) -> dict[str, str]:
    """The same, however they are written."""
    found = islice(_PARAMETER.finditer(disposition), _MAX_PARAMETERS)
    return {match[1].lower(): _unquoted(match[2]) for match in found}


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return value
