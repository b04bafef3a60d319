"""The aligner's weights through the path of the kernels, whose plain twins run anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from predictor.align import forward
from predictor.align.forward import FusedForward, PlainForward, _difference, forward_of
from predictor.align.model import Aligner, Pass
from predictor.align.passes import Marked
from predictor.model.cuda.decoder import PLAIN
from predictor.model.cuda.quantized import LINEARS, Fp8Linear, part_quantizer
from predictor.types import SAMPLE_RATE_HZ
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
    prompts, clips = aligner.prompts(items), [item.samples for item in items]
    expected = PlainForward(aligner.model)(clips, prompts)
    ours = FusedForward(aligner.model, PLAIN)(clips, prompts)
    assert ours.shape == (12, aligner.model.config.num_classes)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.argmax(-1), expected.argmax(-1))


@pytest.fixture(scope="module")
def in_fp8() -> Aligner:
    """As on CUDA, with the layers' plain twins."""
    return Aligner(TINY, device="cpu", dtype=torch.bfloat16, quantize_part=part_quantizer("fp8"))


@torch.inference_mode()
def test_both_ways_give_the_same_scores_in_fp8(in_fp8: Aligner) -> None:
    items = batch()
    prompts, clips = in_fp8.prompts(items), [item.samples for item in items]
    expected = PlainForward(in_fp8.model)(clips, prompts)
    ours = FusedForward(in_fp8.model, PLAIN)(clips, prompts)
    torch.testing.assert_close(ours.float(), expected, rtol=2e-2, atol=2e-2)


@torch.inference_mode()
def test_scores_in_fp8_are_near_those_of_the_same_products_in_float32(
    aligner: Aligner, in_fp8: Aligner
) -> None:
    """Weights as they were rounded, inputs and sums exact: what is left is rounding inputs."""
    items = batch()
    prompts, clips = aligner.prompts(items), [item.samples for item in items]
    exact = PlainForward(aligner.model)(clips, prompts)
    wide = Aligner(TINY, device="cpu", dtype=torch.float32)
    pairs = zip(wide.model.decoder.layers, in_fp8.model.decoder.layers, strict=True)
    for layer, quantized in pairs:
        for name in LINEARS:
            linear = quantized.get_submodule(name)
            assert isinstance(linear, Fp8Linear)
            weight = linear.weight.float() * linear.scale[:, None]
            layer.get_submodule(name).get_parameter("weight").copy_(weight)
    ours, rounded = (PlainForward(each.model)(clips, prompts) for each in (in_fp8, wide))
    assert 0 < _difference(rounded, exact) < 0.03
    assert 0 < _difference(ours, rounded) < 0.03


@torch.inference_mode()
def test_a_pass_that_is_too_long_takes_the_plain_modules(aligner: Aligner) -> None:
    items = batch()
    prompts, clips = aligner.prompts(items), [item.samples for item in items]
    short = FusedForward(aligner.model, PLAIN, max_tokens=64)
    assert len(prompts.tokens) > 64
    assert torch.equal(short(clips, prompts), PlainForward(aligner.model)(clips, prompts))


def test_kernels_that_differ_are_not_used(
    aligner: Aligner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(FusedForward):
        def __init__(self, model: object, fusion: object) -> None:
            pass

        def __call__(self, clips: object, prompts: forward.Prompts) -> torch.Tensor:
            return torch.full((len(prompts.marks), 400), torch.nan)

    items = batch()[:1]
    trial = [items[0].samples], aligner.prompts(items)
    assert isinstance(forward_of(aligner.model, trial), PlainForward)  # a CPU
    monkeypatch.setattr(forward, "FusedForward", Wrong)
    monkeypatch.setattr(forward, "has_kernels", lambda model: True)
    assert isinstance(forward_of(aligner.model, trial), PlainForward)
    assert "kernels are not used" in caplog.text


class Small(Aligner):
    """On a device whose memory holds 40 s of audio at once."""

    def begin(self, batch: Sequence[Marked]) -> Pass:
        if sum(len(item.samples) for item in batch) > 40 * SAMPLE_RATE_HZ:
            raise torch.OutOfMemoryError("too much at once")
        return super().begin(batch)


def test_a_device_with_little_memory_takes_less_at_once() -> None:
    assert Small(TINY, device="cpu", dtype=torch.float32).warm_up(120.0) == 30.0
