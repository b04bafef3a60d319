"""The aligner on CUDA, in 16 and in 8 bits: through the kernels, with the times of the plain
modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from predictor.align.forward import FusedForward, PlainForward
from predictor.align.model import Aligner
from predictor.align.passes import Marked, aligned
from predictor.model.cuda.quantized import Fp8Linear, part_quantizer, refusal_on
from predictor.model.quantized import check_quantized, quantizer
from tests.align.scores import TINY, errors, summary

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


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


@pytest.fixture(scope="module")
def in_fp8() -> Aligner:
    refusal = refusal_on(CUDA, "fp8")
    if refusal:
        pytest.skip(refusal)
    made = Aligner(TINY, device=CUDA, dtype=torch.bfloat16, quantize_part=quantizer("fp8", CUDA))
    check_quantized(made.model, "fp8")
    return made


def test_kernels_in_fp8_agree_with_the_twins_on_the_cpu(in_fp8: Aligner) -> None:
    """Roundings that differ in 16 bits are carried on by those to 8."""
    assert isinstance(in_fp8.forward, FusedForward)
    assert isinstance(in_fp8.model.decoder.layers[0].get_submodule("qkv"), Fp8Linear)
    twin = Aligner(TINY, device="cpu", dtype=torch.bfloat16, quantize_part=part_quantizer("fp8"))
    items = batch(7)
    prompts, clips = in_fp8.prompts(items), [item.samples for item in items]
    with torch.inference_mode():
        expected = PlainForward(twin.model)(clips, prompts).double()
        ours = in_fp8.forward(clips, prompts).double().cpu()
        plain = PlainForward(in_fp8.model)(clips, prompts).double().cpu()
    for found in (ours, plain):
        difference = float((found - expected).norm() / expected.norm())
        print(f"relative difference from the twins: {difference:.4f}")
        assert difference < 0.05


def test_word_times_are_nearly_as_good_in_fp8(in_fp8: Aligner) -> None:
    """On all of the evaluation set, against the same aligner in 16 bits."""
    plain = summary(errors(Aligner(TINY, device=CUDA, dtype=torch.bfloat16)))
    ours = summary(errors(in_fp8))
    for language in ("English", "Chinese"):
        before, after = plain[language], ours[language]
        print(language, before, after)
        assert after["words"] == before["words"]
        assert after["start_median_ms"] <= before["start_median_ms"] + 2
        assert after["start_p95_ms"] <= 1.2 * before["start_p95_ms"] + 2
