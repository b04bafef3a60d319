"""Samples in an anonymous file in memory (memfd), which pass from process to process uncopied.

A decoder writes them, a front maps them and looks at them, and the engine reads the same file. They
are float32, or int16 where that says the same in half the bytes.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any, Final

import numpy as np

from predictor.types import AnySamples, Pcm16, Samples

PCM16_SCALE: Final = 2.0**-15  # a power of two: both ways are exact
_TO_PCM16: Final = np.float32(1 / PCM16_SCALE)
_LOOK: Final = 4096  # samples that tell most of what is not 16 bits


class SharedSamples(np.ndarray[tuple[int], np.dtype[Any]]):
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


def mapped(fd: int, num_samples: int, sample_type: str = "float32") -> AnySamples:
    """The samples in `fd`, float32 or int16, not copied; the mapping lives as long as the array.

    The descriptor is the array's from now on.
    """
    file = SamplesFile(fd)
    dtype = np.dtype(sample_type)
    if num_samples == 0:
        return np.empty(0, dtype=dtype)
    memory = mmap.mmap(fd, num_samples * dtype.itemsize, prot=mmap.PROT_READ)
    samples = np.frombuffer(memory, dtype=dtype).view(SharedSamples)
    samples.file = file
    return samples


def has_file(samples: AnySamples) -> bool:
    """Whether they are those of a file."""
    return isinstance(samples, SharedSamples) and samples.file is not None


def file_of(samples: AnySamples) -> int | None:
    """The descriptor of a file that holds just these samples, the caller's to close; None if there
    is none, or not any more."""
    if isinstance(samples, SharedSamples) and samples.file is not None:
        return samples.file.take()
    return None


def as_float(samples: AnySamples) -> Samples:
    """[num_samples] as the model hears them; float32 is handed back as it is."""
    if samples.dtype == np.float32:
        floats: Samples = samples  # type: ignore[assignment]
        return floats
    return np.multiply(samples, PCM16_SCALE, dtype=np.float32)


def as_pcm16(samples: Samples) -> Pcm16 | None:
    """[num_samples] in 16 bits; None where that would not be the same."""
    if _exactly(samples[:_LOOK]) is None:
        return None
    return _exactly(samples)


def _exactly(samples: Samples) -> Pcm16 | None:
    with np.errstate(invalid="ignore", over="ignore"):  # out of range: it becomes another number
        scaled = samples * _TO_PCM16
        short = scaled.astype(np.int16)
    return short if (scaled == short).all() else None
