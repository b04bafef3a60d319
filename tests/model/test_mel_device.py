"""Rows cut where the features are computed are those that the host cuts."""

from __future__ import annotations

import numpy as np
import torch

from predictor.model.cuda.mel import DeviceLogMel
from predictor.model.mel import LogMel

SIZES = (16_000, 1, 7_999, 8_000, 8_001, 160, 480_000, 15_999, 16_001, 47_900, 31_800, 32_150)


def test_features_are_the_same_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.standard_normal(size)).astype(np.float32) for size in SIZES]
    ours, host = DeviceLogMel(128, device="cpu")(clips), LogMel(128, device="cpu")(clips)
    assert ours.num_frames == host.num_frames
    assert torch.equal(ours.chunks, host.chunks)
