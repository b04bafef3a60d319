"""A recording that lies on disk: seen as bytes without being read, handed on as an open file."""

from __future__ import annotations

import io
import mmap
import os
from typing import Any, BinaryIO

import numpy as np


class MappedFile(mmap.mmap):
    """A whole file as bytes, which are read when they are looked at. It keeps the file open."""

    file: BinaryIO

    def __new__(cls, file: BinaryIO) -> MappedFile:
        """Raises ValueError for an empty file."""
        made = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
        made.file = file
        return made

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


def forget(part: memoryview) -> None:
    """What was looked at of a mapped file is no longer held in this process's memory.

    Pages that were read count as resident, in the end all of the file; these come back from it when
    they are looked at again. Nothing happens to bytes in memory.
    """
    mapped = part.obj
    if not isinstance(mapped, mmap.mmap) or not len(part):
        return
    begin = _address(part) - _address(memoryview(mapped))
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, first, begin + len(part) - first)


def file_part(data: bytes | bytearray | memoryview) -> tuple[BinaryIO, int] | None:
    """The file that a view of a MappedFile shows, and at which byte; None for bytes in memory."""
    view = memoryview(data)
    mapped = view.obj
    if not isinstance(mapped, MappedFile) or not len(view):
        return None
    return mapped.file, _address(view) - _address(memoryview(mapped))


def _address(view: memoryview) -> int:
    address: int = np.frombuffer(view, np.uint8).ctypes.data
    return address


class FilePart(io.RawIOBase):
    """Some bytes of an open file as a file of their own.

    Its position is its own too: descriptors that were passed on share theirs.
    """

    def __init__(self, fd: int, begin: int, num_bytes: int) -> None:
        super().__init__()
        self._fd = fd
        self._begin = begin
        self._num_bytes = num_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}
        self._position = max(0, origin[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        size = min(len(view), max(0, self._num_bytes - self._position))
        count = os.preadv(self._fd, [view[:size]], self._begin + self._position) if size else 0
        self._position += count
        return count
