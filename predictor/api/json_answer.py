"""A JSON body as every route sends it."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from starlette.responses import Response


def json_answer(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """It ends with a newline, so that a prompt does not stand behind what curl shows."""
    return Response(
        orjson.dumps(content, default=str, option=orjson.OPT_APPEND_NEWLINE),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )
