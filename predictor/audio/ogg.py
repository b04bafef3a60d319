"""Ogg files that were joined: each link of the chain is a file with headers and a rate of its own.

The demuxer reads the first link's kind of stream only, so each is handed to it alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Final

_HEADER_BYTES: Final = 27
_BEGINS: Final = 0x02  # flag of a stream's first page
_MAX_LINKS: Final = 10_000


def ogg_links(file: BinaryIO) -> Iterator[BinaryIO]:
    """The links of the chain in `file`, in order; the file itself when there is only one."""
    starts = _link_starts(file)
    if len(starts) < 2:
        file.seek(0)
        yield file
        return
    for start, end in zip(starts, [*starts[1:], file.seek(0, io.SEEK_END)], strict=True):
        file.seek(start)
        yield io.BytesIO(file.read(end - start))


def _link_starts(file: BinaryIO) -> list[int]:
    """Where a first page follows one that is none. Stops at what is no page."""
    size = file.seek(0, io.SEEK_END)
    starts: list[int] = []
    position, begins_before = 0, False
    while position + _HEADER_BYTES <= size and len(starts) < _MAX_LINKS:
        file.seek(position)
        header = file.read(_HEADER_BYTES + 255)
        if header[:4] != b"OggS" or len(header) < _HEADER_BYTES + header[26]:
            break
        begins = bool(header[5] & _BEGINS)
        if begins and not begins_before:
            starts.append(position)
        begins_before = begins
        position += _HEADER_BYTES + header[26] + sum(header[_HEADER_BYTES:][: header[26]])
    return starts
