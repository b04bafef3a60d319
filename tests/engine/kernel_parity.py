"""A program: the fused kernels, interpreted on the CPU, against their plain twins.

Ends with an error when a kernel differs, or when a prefill and decode of requests that share their
beginning does. `--whole`: in every precision, with a cache of either kind, and whole requests with
all kernels at once.
"""

from __future__ import annotations

# isort: off
import tests.model.interpreted  # noqa: F401  before Triton is imported
# isort: on

import sys
from pathlib import Path

import numpy as np
import torch

from predictor.engine.cuda import decode_loop
from predictor.engine.cuda.parity import kernel_errors
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.options import EngineOptions
from predictor.engine.pages import PAGE_TOKENS, pages_of_slot
from predictor.engine.runner import TorchRunner
from predictor.engine.sequence import Sequence
from predictor.model.attention import FP8, Packing, packed_attention, prompt_tiles
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import Fusion
from predictor.model.cuda.kernels.prefill import prefill_attention
from predictor.model.model import Model
from predictor.types import EngineRequest

TINY = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
NUM_STEPS = 2


def sequences(
    runner: TorchRunner,
    befores: tuple[tuple[int, ...], ...] = ((5,), (5, 6)),
    max_length: int = 96,
) -> list[Sequence]:
    """Requests of different lengths: one window of the encoder, and two; and what stands before
    their audio."""
    made = []
    for i, before in enumerate(befores):
        duration_s = 0.7 + 0.6 * i
        noise = np.random.default_rng(i).standard_normal(int(16_000 * duration_s))
        request = EngineRequest(
            request_id=str(i),
            samples=(0.1 * noise).astype(np.float32),
            tokens_before=before,
            tokens_after=(8, 9),
            max_new_tokens=40,
        )
        sequence = Sequence(request, runner.limits, EngineOptions())
        sequence.slot = (1 - i) % runner.num_slots
        sequence.pages = pages_of_slot(sequence.slot, max_length, runner.page_size)
        made.append(sequence)
    return made


def check_prefill(num_heads: int, num_kv_heads: int) -> None:
    """Every token, of prompts of some tiles; groups of heads need not be a power of two."""
    lengths, heads = [200, 3, 64], [num_heads, num_kv_heads, num_kv_heads]
    query, key, value = torch.split(torch.randn(sum(lengths), sum(heads), 32), heads, dim=1)
    ours = prefill_attention(query, key, value, torch.from_numpy(prompt_tiles(lengths)))
    packing = Packing.of(lengths, device=query.device, dtype=query.dtype)
    error = (ours - packed_attention(query, key, value, packing, causal=True)).abs().max()
    if not error <= 1e-5:
        raise SystemExit(f"prefill attention of {num_heads} over {num_kv_heads} heads: {error:.1e}")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    is_whole = sys.argv[1:] == ["--whole"]
    heads = ((4, 2), (6, 2), (10, 2), (2, 2)) if is_whole else ((6, 2),)
    for num_heads, num_kv_heads in heads:
        check_prefill(num_heads, num_kv_heads)
    dtypes = (torch.float32, torch.float16, torch.bfloat16) if is_whole else (torch.float16,)
    for dtype in dtypes:
        model = load_model(TINY, device="cpu", dtype=dtype)
        fusion = Fusion()
        if dtype == torch.bfloat16:  # the interpreter multiplies bfloat16 matrices as integers
            fusion = Fusion(
                attention="masked", small_batch=False, tiled=False, encoder=False, prefill=False,
                shared=False,
            )  # fmt: skip
        kv_dtypes = (dtype, FP8) if dtype != torch.float32 else (dtype,)
        for kv_dtype in kv_dtypes if is_whole else kv_dtypes[-1:]:
            errors = kernel_errors(fusion, model, kv_dtype)
            if errors:
                raise SystemExit(f"{dtype}, cache {kv_dtype}: {errors}")
    model = load_model(TINY, device="cpu", dtype=torch.float32)
    if is_whole:
        check_tokens(model, torch.float32, Fusion())
        check_tokens(model, FP8, Fusion(encoder=False, features=False))  # which have no cache
    check_shared_beginning(model)


def check_tokens(model: Model, kv_dtype: torch.dtype, fusion: Fusion) -> None:
    plain = TorchRunner(model, num_slots=2, max_model_len=96, kv_dtype=kv_dtype)
    fast = GraphRunner(
        model,
        num_slots=2,
        max_model_len=96,
        options=GraphOptions(
            buckets=(2,), steps=((1, NUM_STEPS),), fusion=fusion, check_kernels=False
        ),
        kv_dtype=kv_dtype,
    )
    ours, theirs = sequences(fast), sequences(plain)
    for runner, running in ((fast, ours), (plain, theirs)):
        output = runner.prefill(running)
        while True:
            for sequence, tokens in zip(running, output.tokens, strict=True):
                sequence.tokens += tokens
            if len(running[0].tokens) > NUM_STEPS:
                break
            output = runner.decode(running)
    if [s.tokens[:NUM_STEPS] for s in ours] != [s.tokens[:NUM_STEPS] for s in theirs]:
        found, expected = [s.tokens for s in ours], [s.tokens for s in theirs]
        raise SystemExit(f"cache {kv_dtype}: {found} instead of {expected}")


def check_shared_beginning(model: Model) -> None:
    """Two sequences that begin alike and one that does not, against the plain runner's tokens."""
    decode_loop.LEAST_ROWS = decode_loop.LEAST_SHARERS = decode_loop.LEAST_PAGES = 2
    context = tuple(range(10, 10 + 2 * PAGE_TOKENS + 3))
    befores = (context, context, context[1:])
    fusion = Fusion(encoder=False, features=False, small_batch=False, tiled=False)
    options = GraphOptions(buckets=(), steps=((1, 1),), fusion=fusion, check_kernels=False)
    sizes = {"num_slots": 4, "max_model_len": 256}
    fast = GraphRunner(model, **sizes, options=options)
    plain = TorchRunner(model, **sizes)
    answers = []
    for runner in (fast, plain):
        running = sequences(runner, befores, 256)
        for sequence in running:
            if sequence is running[1]:
                sequence.pages[:2] = running[0].pages[:2]
                sequence.num_cached = 2 * PAGE_TOKENS
            sequence.tokens += runner.prefill([sequence]).tokens[0]
        while min(len(s.tokens) for s in running) <= NUM_STEPS:
            for sequence, tokens in zip(running, runner.decode(running).tokens, strict=True):
                sequence.tokens += tokens
        answers.append([s.tokens[:NUM_STEPS] for s in running])
    if answers[0] != answers[1] or not fast._loop.shares:
        raise SystemExit(f"a shared beginning: {answers[0]} instead of {answers[1]}")


if __name__ == "__main__":
    main()
