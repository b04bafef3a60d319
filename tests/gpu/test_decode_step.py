"""Both ends of a decode step by kernels against plain calls, on a CUDA device: alone, and in graphs
of many steps, where kernels start before those ahead of them have ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from predictor.model.attention import FP8
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import Fusion
from predictor.model.cuda.step import ends_difference
from predictor.model.decoder import Decoder
from tests.engine.decode_steps import Case, ends_differ, steps_of
from tests.gpu.test_graphs import TINY

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NUM_STEPS = 400  # beyond a slot's end for some sequences


def decoder_in(dtype: torch.dtype) -> Decoder:
    return load_model(TINY, device="cuda", dtype=dtype).decoder


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.inference_mode()
def test_both_kernels_equal_their_plain_twins(dtype: torch.dtype) -> None:
    assert ends_difference(decoder_in(dtype)) <= 1e-5
    for num_rows in (1, 2, 3, 16, 64, 511, 512):
        for vocab_size, hidden, width in ((151_936, 1024, 128), (5_001, 2048, 8192)):
            embedding = torch.randn(vocab_size, hidden, device="cuda").to(dtype)
            assert ends_differ(num_rows, 64, embedding, width=width) is None


@torch.inference_mode()
def test_nothing_is_compiled_anew_for_other_sizes() -> None:
    """Of batch, slots, longest sequence and vocabulary: those that differ from start to start."""
    from triton import knobs

    embedding = torch.randn(5_008, 1024, device="cuda")
    assert ends_differ(5, 64, embedding) is None
    compiled: list[str] = []
    knobs.compilation.listener = lambda src, **_: compiled.append(src.fn.__name__)
    try:
        for num_rows, num_pages, vocab_size in (
            (1, 1, 5_008), (2, 16, 5_001), (13, 5, 5_000), (61, 32, 5_008), (512, 7, 4_999),
        ):  # fmt: skip
            some = embedding[:vocab_size]
            assert ends_differ(num_rows, 64, some, num_pages=num_pages) is None
    finally:
        knobs.compilation.listener = None
    assert compiled == []


@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "calls"])
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, FP8], ids=str)
@pytest.mark.parametrize(
    ("rows", "shares"),
    [((3,), False), ((2, 8), False), ((1, 5, 8, 0), False), ((1, 8, 2, 7, 6, 0, 3, 4), True)],
    ids=["one", "two", "four", "eight alike"],
)
@torch.inference_mode()
def test_many_steps_equal_those_with_plain_ends(
    rows: tuple[int, ...], shares: bool, kv_dtype: torch.dtype, in_graph: bool
) -> None:
    """To the bit: tokens, log-probabilities, the slots' state and the cache."""
    decoder = decoder_in(torch.bfloat16)
    positions = (64, 100, 63, 450, 128, 639, 200, 70, 0)  # of 8 slots and of scratch
    if shares:  # a page that all have
        positions = (64, 100, 65, 450, 128, 639, 200, 70, 0)
    case = Case(kv_dtype, rows, positions, NUM_STEPS, shares, max_length=640)
    found = [
        steps_of(decoder, replace(Fusion(), ends=ends), case, in_graph=in_graph)
        for ends in (True, False)
    ]
    for ours, plain in zip(*found, strict=True):
        assert torch.equal(ours, plain)
    tokens = found[0][0][..., 0]
    assert tokens.unique().numel() > 10  # it is no loop of one token
