"""Multipart bodies: one file and a few short fields, nothing repeated, nothing unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from predictor.api.tensors import refuse_unknown
from predictor.errors import InvalidInput, UnsupportedMedia

_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 256 * 1024


class _InMemoryParser(MultiPartParser):
    """Keeps the file in memory: bodies are bounded, and the container's disk may be read-only."""

    spool_max_size = 1 << 40


@dataclass(frozen=True, slots=True)
class Form:
    """What a multipart body held."""

    data: bytes
    content_type: str | None  # of the file's part
    fields: dict[str, str]
    lists: dict[str, list[str]]  # fields whose name ends with []


async def read_form(request: Request, file_field: str, known_fields: Sequence[str]) -> Form:
    """Raises UnsupportedMedia for another media type, InvalidInput for anything else wrong."""
    media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if media_type != "multipart/form-data":
        raise UnsupportedMedia(
            f"content-type: {media_type[:60]!r} is not accepted, send multipart/form-data",
            field="content-type",
            value=media_type[:60],
            limit=["multipart/form-data"],
        )
    parser = _InMemoryParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        items = (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise InvalidInput(f"body: {error.message}", field="body") from error
    file: UploadFile | None = None
    fields: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for name, value in items:
        if f"{name}[]" in known_fields:  # some clients leave the brackets away
            name = f"{name}[]"
        refuse_unknown({name: value}, [file_field, *known_fields], "form")
        if (name == file_field) != isinstance(value, UploadFile):
            kind = "a file" if name == file_field else "text"
            raise InvalidInput(f"{name}: must be sent as {kind}", field=name)
        if isinstance(value, UploadFile):
            file = value
        elif name.endswith("[]"):
            lists.setdefault(name, []).append(value)
        elif name in fields:
            raise InvalidInput(f"{name}: given twice", field=name)
        else:
            fields[name] = value
    if file is None:
        raise InvalidInput(f"{file_field}: the form has no such file", field=file_field)
    data = await file.read()
    await file.close()
    return Form(data, file.content_type, fields, lists)
