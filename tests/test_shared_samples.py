"""Samples that processes share are one file: handed on once, closed always."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from predictor.shared_samples import file_of, mapped

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
