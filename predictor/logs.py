"""Structured logs: one JSON object a line, each with the request id it belongs to.

No audio is ever passed to a logger, and a transcript only where `log_text` asks for it; what a line
holds is named here or by its caller through `extra={"fields": {...}}`.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

request_id_var: ContextVar[str] = ContextVar("request_id", default="")
_noted: ContextVar[dict[str, object] | None] = ContextVar("noted", default=None)
_MAX_REPEATS: Final = 20  # of one warning or error
_WINDOW_S: Final = 60.0
_JSON: Final = json.JSONEncoder(ensure_ascii=False, default=str)  # json.dumps would make one a line


@contextmanager
def noting() -> Iterator[dict[str, object]]:
    """A request's own line of the log: what is noted inside, in tasks that begin inside too."""
    fields: dict[str, object] = {}
    token = _noted.set(fields)
    try:
        yield fields
    finally:
        _noted.reset(token)


def note(**fields: object) -> None:
    """For the line of the request that this belongs to, if it belongs to one."""
    noted = _noted.get()
    if noted is not None:
        noted.update(fields)


class RepeatLimit(logging.Filter):
    """Lets a warning or error through _MAX_REPEATS times in _WINDOW_S; the next one that passes
    says how many did not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # since when, how often

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.levelno < logging.WARNING:
            return True
        place = (record.name, str(record.msg))
        began_s, count = self._seen.get(place, (self._clock(), 0))
        if self._clock() - began_s >= _WINDOW_S:
            if count > _MAX_REPEATS:
                fields = getattr(record, "fields", None)
                more = {"repeats_left_out": count - _MAX_REPEATS}
                record.fields = {**(fields if isinstance(fields, dict) else {}), **more}
            began_s, count = self._clock(), 0
        self._seen[place] = (began_s, count + 1)
        return count < _MAX_REPEATS


class LineBudget:
    """Lines of one kind: so many a second are written, and the next one says how many were not.

    A flood of requests must not become a flood of the log: to write a line is most of what a
    refusal costs.
    """

    def __init__(self, a_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_second = a_second
        self._clock = clock
        self._began_s = clock()
        self._num_written = self._num_left_out = 0

    def take(self) -> dict[str, int] | None:
        """Fields for the line, None where it is left out."""
        now_s = self._clock()
        if now_s - self._began_s >= 1.0:
            self._began_s, self._num_written = now_s, 0
        if self._num_written >= self._a_second:
            self._num_left_out += 1
            return None
        self._num_written += 1
        left_out, self._num_left_out = self._num_left_out, 0
        return {"refusals_left_out": left_out} if left_out else {}


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
        return _JSON.encode(line)


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
    """Send every logger's records to stderr, as "json" or "text", from `log_level` on.

    "auto" is text on a terminal. SIGUSR1 changes the level to debug and back.
    """
    # No line says where in the code it was written, or by which thread and process.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatLimit())
    if log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()):
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level.upper())
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, lambda *_: toggle_level(log_level))
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        # KServe installs handlers of its own unless its logger has one already.
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = True
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def toggle_level(log_level: str) -> None:
    """Debug, or back to what was set."""
    root = logging.getLogger()
    is_debug = root.level == logging.DEBUG and log_level != "debug"
    root.setLevel(log_level.upper() if is_debug else logging.DEBUG)
