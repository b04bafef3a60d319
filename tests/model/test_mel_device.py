"""Rows cut where the features are computed are those that the host cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from predictor.model.cuda.mel import DeviceLogMel, on_device, staged_samples
from predictor.model.mel import LogMel

SIZES = (16_000, 1, 7_999, 8_000, 8_001, 160, 480_000, 15_999, 16_001, 47_900, 31_800, 32_150)


@pytest.mark.parametrize("short", [(), range(12), (0, 3, 11)])
def test_features_are_the_same_bit_for_bit(short: Sequence[int]) -> None:
    """`short`: the clips that come as 16 bits: none, all of them, or some."""
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.standard_normal(size)).astype(np.float32) for size in SIZES]
    for index in short:
        clips[index] = np.round(clips[index] * 32768) / np.float32(32768)
    sent = [(c * 32768).astype(np.int16) if i in short else c for i, c in enumerate(clips)]
    ours, host = DeviceLogMel(128, device="cpu")(sent), LogMel(128, device="cpu")(clips)
    assert torch.equal(LogMel(128, device="cpu")(sent).chunks, host.chunks)
    assert ours.num_frames == host.num_frames
    assert torch.equal(ours.chunks, host.chunks)


def test_16_bits_become_floats_where_a_graph_reads_them() -> None:
    """Written into a part of a buffer that stays."""
    rng = np.random.default_rng(0)
    clips = [rng.integers(-(2**15), 2**15, size).astype(np.int16) for size in (1000, 1, 333)]
    staged = staged_samples(clips, pin_memory=False)
    assert staged.dtype == torch.int16
    buffer = torch.full((2000,), 7.0)
    on_device(staged, buffer.device, out=buffer[: len(staged)])
    expected = torch.from_numpy(np.concatenate(clips)).to(torch.float32) / 32768
    assert torch.equal(buffer[: len(staged)], expected)
    assert bool((buffer[len(staged) :] == 7).all())
