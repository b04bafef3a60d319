"""Fetches a checkpoint's files into memory while Python still imports; torch-free for that."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

PIECE_BYTES = 8 * 2**20
NUM_THREADS = 4  # a disk gives more to several readers than to one


def read_ahead(folder: Path) -> list[threading.Thread]:
    """Start reading the weights into the page cache; whatever fails is left to the loader.

    Reads, and lets go of what it read: the system's own hint (`posix_fadvise`) stops after its
    read-ahead window, some hundred KiB of each file.
    """
    pieces: list[tuple[Path, int]] = []
    for file in sorted(folder.glob("*.safetensors")):
        with contextlib.suppress(OSError):
            size = file.stat().st_size
            pieces += [(file, offset) for offset in range(0, size, PIECE_BYTES)]
    threads = [
        threading.Thread(target=_fetch, args=(pieces[i::NUM_THREADS],), name="read ahead")
        for i in range(min(NUM_THREADS, len(pieces)))
    ]
    for thread in threads:
        thread.daemon = True
        thread.start()
    return threads


def _fetch(pieces: Sequence[tuple[Path, int]]) -> None:
    buffer = bytearray(PIECE_BYTES)
    for file, offset in pieces:
        with contextlib.suppress(OSError), file.open("rb", buffering=0) as opened:
            if not _is_cached(opened.fileno(), offset):
                os.preadv(opened.fileno(), [buffer], offset)


def _is_cached(descriptor: int, offset: int) -> bool:
    """The first byte of a piece is in memory, and most likely the rest; False where unknown."""
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False
