"""Files of jobs, written whole or not at all, and what a full disk is to a caller."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from predictor.audio.file_part import forget
from predictor.errors import Overloaded

logger = logging.getLogger(__name__)

_WRITE_BYTES: Final = 1 << 20
_RETRY_AFTER_S: Final = 60
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """All of the file, on disk and under its name, or none of it. Raises OSError."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            for begin in range(0, len(data), _WRITE_BYTES):
                file.write(block := memoryview(data)[begin : begin + _WRITE_BYTES])
                forget(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def refusing_when_full() -> Iterator[None]:
    """Writing inside: a full disk is a reason to come again later, not a fault of ours.

    Raises Overloaded.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if not _is_full(error):
            raise
        logger.error("jobs_dir: its disk is full; make room there, or lower max_jobs_bytes")
        raise Overloaded("the disk of jobs is full", retry_after_s=_RETRY_AFTER_S) from error


def _is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
