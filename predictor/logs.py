"""Structured logs: one JSON object a line, each with the request id it belongs to.

No audio and no transcript is ever passed to a logger; what a line holds is named here or by its
caller through `extra={"fields": {...}}`.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

request_id_var: ContextVar[str] = ContextVar("request_id", default="")


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := request_id_var.get():
            line["request_id"] = request_id
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: time, level, logger and message, then id and fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        fields = getattr(record, "fields", None)
        values: dict[str, object] = dict(fields) if isinstance(fields, dict) else {}
        if request_id := request_id_var.get():
            values["request_id"] = request_id
        words = [super().formatMessage(record), *(f"{k}={v}" for k, v in values.items())]
        return _printable(" ".join(words))


def _printable(text: str) -> str:
    """What callers chose, such as a path, can neither start a line nor steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure_logging(log_format: str, log_level: str) -> None:
    """Send every logger's records to stderr, as "json" or "text", from `log_level` on."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level.upper())
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        # KServe installs handlers of its own unless its logger has one already.
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = True
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
