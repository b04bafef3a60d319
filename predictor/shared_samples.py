"""Samples in an anonymous file in memory (memfd), which pass from process to process uncopied.

A decoder writes them, a front maps them and looks at them, and the engine reads the same file.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np

from predictor.types import Samples


class SharedSamples(np.ndarray[tuple[int], np.dtype[np.float32]]):
    """[num_samples] of a file, all of it; parts and results of computing are plain arrays."""

    file: SamplesFile | None

    def __array_finalize__(self, _: Any) -> None:
        self.file = None


class SamplesFile:
    """The open file, until its samples were sent on or are not needed any more."""

    def __init__(self, fd: int) -> None:
        self._close = weakref.finalize(self, os.close, fd)
        self._fd = fd

    def take(self) -> int | None:
        """The descriptor, which is the caller's to close now; None if it was taken before."""
        return None if self._close.detach() is None else self._fd


def mapped(fd: int, num_samples: int) -> Samples:
    """The float32 samples in `fd`, not copied; the mapping lives as long as the array.

    The descriptor is the array's from now on.
    """
    file = SamplesFile(fd)
    if num_samples == 0:
        return np.empty(0, dtype=np.float32)
    memory = mmap.mmap(fd, num_samples * 4, prot=mmap.PROT_READ)
    samples = np.frombuffer(memory, dtype=np.float32).view(SharedSamples)
    samples.file = file
    return samples


def file_of(samples: Samples) -> int | None:
    """The descriptor of a file that holds just these samples, the caller's to close; None if there
    is none, or not any more."""
    if isinstance(samples, SharedSamples) and samples.file is not None:
        return samples.file.take()
    return None
