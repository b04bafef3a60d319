"""Samples that processes share are one file: handed on once, closed always."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from predictor.shared_samples import as_float, as_pcm16, file_of, mapped

VALUES = np.arange(1000, dtype=np.float32)


def written() -> int:
    """A file as a decoder leaves it."""
    fd = os.memfd_create("samples")
    os.write(fd, VALUES.tobytes())
    return fd


def test_the_file_that_was_mapped_is_handed_on_and_only_once() -> None:
    fd = written()
    inode = os.fstat(fd).st_ino
    samples = mapped(fd, 1000)
    assert np.array_equal(samples, VALUES)
    sent = file_of(samples)
    assert sent is not None
    assert os.fstat(sent).st_ino == inode
    assert file_of(samples) is None
    os.close(sent)
    assert np.array_equal(samples, VALUES), "the mapping outlives the descriptor"


def test_a_file_that_nobody_took_is_closed_with_its_samples() -> None:
    fd = written()
    samples = mapped(fd, 1000)
    os.fstat(fd)
    del samples
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_parts_and_results_are_not_the_file() -> None:
    samples = mapped(written(), 1000)
    assert file_of(samples[10:20]) is None
    assert file_of(samples * 2) is None
    assert file_of(np.array(samples)) is None
    assert file_of(VALUES) is None
    taken = file_of(samples)
    assert taken is not None
    os.close(taken)


def test_no_samples_need_no_file() -> None:
    fd = os.memfd_create("samples")
    assert len(mapped(fd, 0)) == 0
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@given(st.lists(st.integers(-32768, 32767), max_size=50))
def test_what_was_16_bits_is_the_same_in_16_bits(values: list[int]) -> None:
    floats = np.array(values, np.float32) / 32768  # as libsndfile and FFmpeg read 16 bits
    short = as_pcm16(floats)
    assert short is not None
    assert short.tolist() == values
    assert np.array_equal(as_float(short), floats)


@given(
    hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32)),
    st.integers(0, 6000),
)
def test_what_is_no_16_bits_stays_as_it_is(values: NDArray[np.float32], zeros: int) -> None:
    samples = np.concatenate([np.zeros(zeros, np.float32), values])
    with np.errstate(all="ignore"):
        short = as_pcm16(samples)
        whole = np.round(values.astype(np.float64) * 32768)
        exact = bool(np.all((whole / 32768 == values) & (whole >= -32768) & (whole <= 32767)))
    assert (short is not None) == exact
    if short is not None:
        assert np.array_equal(as_float(short), samples)


def test_16_bits_in_a_file_are_mapped_as_such() -> None:
    fd = os.memfd_create("samples")
    os.write(fd, VALUES.astype(np.int16).tobytes())
    samples = mapped(fd, 1000, "int16")
    assert samples.dtype == np.int16
    assert np.array_equal(as_float(samples), VALUES / 32768)
