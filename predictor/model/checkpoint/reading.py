"""Tensors of safetensors files into the memory that waits for them, as fast as the disk gives them.

Some threads read pieces of the files into buffers while one hands the pieces that have come to the
device, so disk and device work at the same time; on CUDA the buffers are pinned and the copies run
beside whatever else the device does. Reading by position rather than through a memory map: a map
costs a page fault for every few pages, and a cold disk sees one small read after another.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

PIECE_BYTES = 8 * 2**20
MAX_THREADS = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor's bytes are."""

    file: Path
    offset: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of values small enough for one buffer."""

    file: int  # descriptor
    offset: int
    num_bytes: int
    dtype: torch.dtype  # as it is stored
    target: Tensor  # [num values], in the model's own dtype


def sources(file: Path) -> dict[str, Source]:
    """Every tensor of floating point that a valid safetensors file holds, by name."""
    with file.open("rb") as opened:
        header_bytes = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(header_bytes))
    start = 8 + header_bytes
    return {
        name: Source(file, start + entry["data_offsets"][0], DTYPES[entry["dtype"]])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] in DTYPES
    }


class Reader:
    """Fills tensors on `device`; a context manager, which holds the threads and their buffers."""

    def __init__(self, device: torch.device) -> None:
        num_threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(num_threads, "weights")
        self._buffers = [_Buffer(device) for _ in range(2 * num_threads)]
        self._device = device

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def read(self, wanted: Iterable[tuple[Source, Tensor]]) -> None:
        """Fill each tensor from its source; all of it is there on return.

        The tensors are contiguous and as large as their sources. Raises OSError, EOFError for a
        file that ends early.
        """
        in_order = sorted(wanted, key=lambda pair: (pair[0].file, pair[0].offset))
        handover = _Handover(self._device)
        reads: deque[tuple[_Piece, _Buffer, Future[None]]] = deque()  # oldest first
        with ExitStack() as files:
            try:
                for piece, buffer in zip(
                    _pieces(in_order, files), cycle(self._buffers), strict=False
                ):
                    if len(reads) == len(self._buffers):
                        handover.take(*reads.popleft())
                        buffer.wait()
                    reads.append((piece, buffer, self._pool.submit(_read, piece, buffer)))
                while reads:
                    handover.take(*reads.popleft())
            finally:
                # After an error some still read; files stay open until they have ended.
                wait([read for _, _, read in reads if not read.cancel()])
                handover.finish()


def _pieces(wanted: Iterable[tuple[Source, Tensor]], files: ExitStack) -> Iterator[_Piece]:
    opened: dict[Path, int] = {}
    for source, target in wanted:
        assert target.is_contiguous()
        if source.file not in opened:
            opened[source.file] = os.open(source.file, os.O_RDONLY | os.O_CLOEXEC)
            files.callback(os.close, opened[source.file])
        size = source.dtype.itemsize
        offset = source.offset
        for part in torch.split(target.view(-1), PIECE_BYTES // size):
            num_bytes = part.numel() * size
            yield _Piece(opened[source.file], offset, num_bytes, source.dtype, part)
            offset += num_bytes


class _Buffer:
    """Host memory that a piece passes through; on CUDA pinned, and used again once copied from."""

    def __init__(self, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self.bytes = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=is_cuda)
        self.memory = self.bytes.numpy().data
        self.copied = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


def _read(piece: _Piece, buffer: _Buffer) -> None:
    done = 0
    while done < piece.num_bytes:
        rest = buffer.memory[done : piece.num_bytes]
        count = os.preadv(piece.file, [rest], piece.offset + done)
        if count == 0:
            raise EOFError("the file ends early")
        done += count


class _Handover:
    """Copies pieces to the device, on a stream of their own on CUDA."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # The memory may have been something else's that still runs.
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def take(self, piece: _Piece, buffer: _Buffer, read: Future[None]) -> None:
        """Wait for a piece and start its copy. Raises what its reading raised."""
        read.result()
        values = buffer.bytes[: piece.num_bytes].view(piece.dtype)
        if self._stream is None:
            piece.target.copy_(values)
            return
        assert buffer.copied is not None
        with torch.cuda.stream(self._stream):
            if values.dtype == piece.target.dtype:
                piece.target.copy_(values, non_blocking=True)
            else:  # converted there: the host would take longer
                piece.target.copy_(values.to(piece.target.device, non_blocking=True))
            buffer.copied.record(self._stream)

    def finish(self) -> None:
        """Wait for all copies."""
        if self._stream is not None:
            self._stream.synchronize()
