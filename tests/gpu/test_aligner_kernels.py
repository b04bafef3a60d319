"""The aligner on CUDA: through the kernels, with the times of the plain modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from predictor.align.forward import FusedForward, PlainForward
from predictor.align.model import Aligner
from predictor.align.passes import Marked, aligned
from tests.align.scores import TINY

pytestmark = pytest.mark.gpu


def batch(count: int) -> list[Marked]:
    rng = np.random.default_rng(5)
    words = ("one", "two", "three", "four")
    sizes = rng.integers(8_000, 300_000, count)
    return [Marked(0.1 * rng.standard_normal(int(n), dtype=np.float32), words) for n in sizes]


def test_kernels_and_modules_agree_in_16_bit() -> None:
    aligner = Aligner(TINY, device="cuda", dtype=torch.bfloat16)
    assert isinstance(aligner.forward, FusedForward)
    items = batch(7)
    prompts, clips = aligner.prompts(items), [item.samples for item in items]
    with torch.inference_mode():
        expected = PlainForward(aligner.model)(clips, prompts).double()
        ours = aligner.forward(clips, prompts).double()
    assert float((ours - expected).norm() / expected.norm()) < 0.05


def test_passes_started_behind_each_other_keep_their_answers() -> None:
    aligner = Aligner(TINY, device="cuda", dtype=torch.bfloat16)
    aligner.warm_up(60.0)
    batches = [batch(n) for n in (1, 5, 2)]
    started = [aligner.begin(items) for items in batches]
    together = [pending.result() for pending in started]
    for items, times in zip(batches, together, strict=True):
        assert [t.shape for t in times] == [(4, 2)] * len(items)
        for item, alone in zip(items, times, strict=True):
            [again] = aligned(aligner, [item])
            assert again.shape == alone.shape
