"""Forms: one file and a few short fields, nothing repeated, nothing unknown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from starlette.requests import Request

from predictor.api.media import checked_content_type, media_type
from predictor.api.multipart import Part, read_parts
from predictor.api.reading import SEARCHED_BYTES, off_loop, read_recording
from predictor.api.tensors import refuse_unknown
from predictor.errors import InvalidInput, UnsupportedMedia

_MAX_PARTS = 48
MAX_ITEMS: Final = 4  # of a list
_MAX_FIELD_BYTES = 256 * 1024
_INDEXED: Final = re.compile(r"\[[0-9]{1,3}\]$")  # of a list's items, as PHP and `qs` write them


@dataclass(slots=True)
class Form:
    """What a multipart body held."""

    data: memoryview | None = None
    content_type: str | None = None  # of the file's part
    fields: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)  # of names that may end with []


async def read_form(
    request: Request, file_field: str, known_fields: Sequence[str], *, needs_file: bool = True
) -> Form:
    """Raises UnsupportedMedia for another media type, InvalidInput for anything else wrong."""
    content_type = request.headers.get("content-type", "")
    if media_type(content_type) != "multipart/form-data":
        shown = media_type(content_type)[:60]
        raise UnsupportedMedia(
            f"content-type: {shown!r} is not accepted, send multipart/form-data",
            field="content-type",
            value=shown,
            limit=["multipart/form-data"],
        )
    body = await read_recording(request)
    parts = await off_loop(
        len(body), lambda: read_parts(body, content_type, _MAX_PARTS), small=SEARCHED_BYTES
    )
    form = Form()
    for part in parts:
        part = _of_list(part, known_fields)
        refuse_unknown({part.name: part}, [file_field, *known_fields], "form")
        if part.name == file_field:
            _take_file(form, part)
        else:
            _take_field(form, part, known_fields)
    if form.data is None and needs_file:
        raise InvalidInput(f"{file_field}: the form has no such file", field=file_field)
    return form


def _of_list(part: Part, known_fields: Sequence[str]) -> Part:
    """`names[0]`, `names[1]` are items of the list `names[]`."""
    name = _INDEXED.sub("[]", part.name)
    return replace(part, name=name) if name != part.name and name in known_fields else part


def _take_file(form: Form, part: Part) -> None:
    if form.data is not None:
        raise InvalidInput(f"{part.name}: given twice", field=part.name)
    form.data = part.data
    form.content_type = checked_content_type(part.content_type)


def _take_field(form: Form, part: Part, known_fields: Sequence[str]) -> None:
    name = part.name
    if part.is_file:
        raise InvalidInput(f"{name}: must be sent as text", field=name)
    if len(part.data) > _MAX_FIELD_BYTES:
        raise InvalidInput(
            f"{name}: {len(part.data)} bytes, the limit is {_MAX_FIELD_BYTES}",
            field=name,
            value=len(part.data),
            limit=_MAX_FIELD_BYTES,
        )
    try:
        text = bytes(part.data).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name}: not UTF-8", field=name) from error
    if name.endswith("[]") or f"{name}[]" in known_fields:
        items = form.lists.setdefault(name, [])
        if len(items) >= MAX_ITEMS:
            raise InvalidInput(f"{name}: more than {MAX_ITEMS}", field=name, limit=MAX_ITEMS)
        items.append(text)
    elif name in form.fields:
        raise InvalidInput(f"{name}: given twice", field=name)
    else:
        form.fields[name] = text
