"""Both ends of a decode step by kernels against plain calls, on a CUDA device: alone, and in graphs
of many steps, where kernels start before those ahead of them have ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from predictor.model.attention import FP8
from predictor.model.checkpoint.published import PUBLISHED
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import Fusion
from predictor.model.cuda.step import ends_difference
from predictor.model.decoder import Decoder
from tests.bench.shapes import random_model
from tests.engine.decode_steps import Case, ends_differ, steps_of
from tests.gpu.test_graphs import TINY

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NUM_STEPS = 300  # beyond a slot's end for some sequences
REPEATS = 5
# Of 20 slots and of scratch: behind the first page, which some have in common.
POSITIONS = (64, 100, 65, 250, 128, 319, 200, 70, 127, 191, *range(66, 266, 20), 0)


def decoder_in(dtype: torch.dtype) -> Decoder:
    return load_model(TINY, device="cuda", dtype=dtype).decoder


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.inference_mode()
def test_both_kernels_equal_their_plain_twins(dtype: torch.dtype) -> None:
    assert ends_difference(decoder_in(dtype)) <= 5e-5
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


def decoder_of_published_shape() -> Decoder:
    """Two layers of 0.6B, with a head of its own: with the embedding's rows as head a random model
    repeats the token that it was given."""
    config = PUBLISHED["0.6B"]
    config = replace(
        config,
        audio=replace(config.audio, num_layers=1),
        text=replace(config.text, num_layers=2),
        tied_embeddings=False,
    )
    return random_model(config, torch.device("cuda"), torch.bfloat16).decoder


@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "calls"])
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, FP8], ids=str)
@torch.inference_mode()
def test_many_steps_equal_those_with_plain_ends(kv_dtype: torch.dtype, in_graph: bool) -> None:
    """To the bit: tokens, log-probabilities, the slots' state and the cache; again and again."""
    decoder = decoder_of_published_shape()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    scratch = len(POSITIONS) - 1
    for rows in ([3], [2, scratch], [1, *[scratch] * 3, *order[:4]], order[:16], order):
        shares = len(rows) == 20  # which only steps of large batches read
        case = Case(kv_dtype, tuple(rows), POSITIONS, NUM_STEPS, shares, max_length=320)
        plain = steps_of(decoder, Fusion(ends=False), case, in_graph=in_graph)
        tokens, logprobs = plain[0].unbind(-1)
        assert tokens.unique().numel() > 50  # it is no loop of a few
        assert bool(logprobs.isfinite().all())
        for again in range(REPEATS):
            found = steps_of(decoder, Fusion(), case, in_graph=in_graph)
            for ours, expected in zip(found, plain, strict=True):
                assert torch.equal(ours, expected), f"{len(rows)} rows, run {again}"
