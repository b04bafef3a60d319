"""The aligner's weights through the path of the kernels, whose plain twins run anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from predictor.align import forward
from predictor.align.forward import FusedForward, PlainForward, forward_of
from predictor.align.model import Aligner
from predictor.align.passes import Marked
from predictor.model.cuda.decoder import PLAIN
from tests.align.scores import TINY

WORDS = (("one", "two", "three"), ("four",), ("five", "six"))


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner(TINY, device="cpu", dtype=torch.float32)


def batch() -> list[Marked]:
    rng = np.random.default_rng(3)
    sizes = (48_000, 9_000, 150_001)
    clips = [0.1 * rng.standard_normal(size, dtype=np.float32) for size in sizes]
    return [Marked(clip, words) for clip, words in zip(clips, WORDS, strict=True)]


@torch.inference_mode()
def test_both_ways_give_the_same_scores(aligner: Aligner) -> None:
    items = batch()
    prompts, clips = aligner._prompts(items), [item.samples for item in items]
    expected = PlainForward(aligner._model)(clips, prompts)
    ours = FusedForward(aligner._model, PLAIN)(clips, prompts)
    assert ours.shape == (12, aligner._model.config.num_classes)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.argmax(-1), expected.argmax(-1))


@torch.inference_mode()
def test_a_pass_that_is_too_long_takes_the_plain_modules(aligner: Aligner) -> None:
    items = batch()
    prompts, clips = aligner._prompts(items), [item.samples for item in items]
    short = FusedForward(aligner._model, PLAIN, max_tokens=64)
    assert len(prompts.tokens) > 64
    assert torch.equal(short(clips, prompts), PlainForward(aligner._model)(clips, prompts))


def test_kernels_that_differ_are_not_used(
    aligner: Aligner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(FusedForward):
        def __init__(self, model: object, fusion: object) -> None:
            pass

        def __call__(self, clips: object, prompts: forward.Prompts) -> torch.Tensor:
            return torch.full((len(prompts.marks), 400), torch.nan)

    items = batch()[:1]
    trial = [items[0].samples], aligner._prompts(items)
    assert isinstance(forward_of(aligner._model, trial), PlainForward)  # a CPU
    monkeypatch.setattr(forward, "FusedForward", Wrong)
    monkeypatch.setattr(forward, "has_kernels", lambda model: True)
    assert isinstance(forward_of(aligner._model, trial), PlainForward)
    assert "kernels are not used" in caplog.text
