"""What a request is called, and its one line in the log."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Final

from starlette.types import Scope

from predictor.errors import AsrError, InvalidInput

logger = logging.getLogger("predictor.access")

REFUSALS_A_SECOND: Final = 20  # of a full server that have a line; all of them are counted
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id_of(given: str | None) -> str:
    """The caller's request id when it is safe to print, or a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()


def trace_of(traceparent: str | None) -> str | None:
    """The trace's id of a W3C header, if it is one."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def log_request(
    scope: Scope,
    status: int,
    elapsed_s: float,
    error: AsrError | None,
    noted: Mapping[str, object],
) -> None:
    """The request's one line."""
    fields: dict[str, object] = {
        "method": scope["method"],
        "path": scope["path"][:200],  # never the query: it may hold a context
        "status": status,
        "elapsed_s": round(elapsed_s, 4),
        **noted,
    }
    if error is not None:
        fields["error"] = error.spec.code
        if isinstance(error, InvalidInput) and error.field:
            fields["field"] = error.field
    level = logging.DEBUG if scope["method"] == "GET" and status < 400 else logging.INFO
    logger.log(level, "request", extra={"fields": fields})
