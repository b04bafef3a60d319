"""Asks the system to fetch a checkpoint's files while Python still imports; torch-free for that."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


def read_ahead(folder: Path) -> threading.Thread:
    """Start fetching the weights into the page cache; a hint, so whatever fails is left alone."""
    thread = threading.Thread(target=_fetch, args=(folder,), name="read ahead", daemon=True)
    thread.start()
    return thread


def _fetch(folder: Path) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        # Errors are the loader's to report.
        with contextlib.suppress(OSError), file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
