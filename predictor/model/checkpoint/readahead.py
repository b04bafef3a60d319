"""Fetches a checkpoint's files into memory while Python still imports; torch-free for that."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from predictor.model.checkpoint.host_memory import free_host_bytes

PIECE_BYTES = 8 * 2**20
NUM_THREADS = 4  # a disk gives more to several readers than to one
MOST_OF_FREE = 0.75  # of the memory that is left: what it drives out would be read twice


def read_ahead(folder: Path) -> list[threading.Thread]:
    """Start reading the weights into the page cache; whatever fails is left to the loader.

    Reads, and lets go of what it read: the system's own hint (`posix_fadvise`) stops after its
    read-ahead window, some hundred KiB of each file. Nothing is read where memory is short.
    """
    try:
        sizes = {file: file.stat().st_size for file in _weights(folder)}
    except (OSError, ValueError, AttributeError):  # what is wrong, the loader will say
        return []
    free = free_host_bytes(Path("/"))
    if free is not None and sum(sizes.values()) > MOST_OF_FREE * free:
        return []
    pieces = [(file, at) for file, size in sizes.items() for at in range(0, size, PIECE_BYTES)]
    threads = [
        threading.Thread(
            target=_fetch, args=(pieces[i::NUM_THREADS],), name="read ahead", daemon=True
        )
        for i in range(min(NUM_THREADS, len(pieces)))
    ]
    for thread in threads:
        thread.start()
    return threads


def _weights(folder: Path) -> list[Path]:
    """The files that the loader will read."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    names = json.loads(index.read_text("utf-8")).get("weight_map", {}).values()
    return [folder / name for name in sorted({Path(str(name)).name for name in names})]


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
