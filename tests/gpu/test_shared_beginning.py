"""A beginning that many sequences share is read once for all of them: attention equals its twin
whoever shares it, and answers equal those of the plain runner. Needs a CUDA device."""

from __future__ import annotations

import asyncio

import pytest
import torch
from torch import Tensor

from predictor.engine import EngineClient, EngineCore
from predictor.engine.cuda.parity import difference, kernel_errors
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.options import EngineOptions
from predictor.engine.runner import TorchRunner
from predictor.model.attention import FP8
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import Fusion, masked_attention
from predictor.types import EngineRequest
from tests.gpu.test_graphs import AFTER, BEFORE, TINY, clips

pytestmark = pytest.mark.gpu

PAGE = 64
# Heads, key heads and their width: of 1.7B, of the embedded checkpoint, and an odd group.
SHAPES = [(16, 8, 128), (4, 2, 64), (6, 2, 32)]
TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 1e-2}
FUSION = Fusion()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FP8], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_attention_equals_its_twin(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    from predictor.model.cuda.kernels.attention import decode_attention

    num_heads, num_kv_heads, dim = shape
    generator = torch.Generator("cuda").manual_seed(0)
    query_dtype = torch.bfloat16 if dtype == FP8 else dtype

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device="cuda")

    tile = FUSION.tile_of(1, dtype)
    for num_rows, num_pages in ((64, 1), (200, 8), (512, 3)):
        width = num_pages + 5
        all_pages = width * (num_rows + 1)
        cache = normal(2, all_pages, PAGE, num_kv_heads, dim).to(dtype)
        tables = torch.randperm(all_pages, generator=generator, device="cuda").view(-1, width)
        query = normal(num_rows, num_heads, dim).to(query_dtype)
        slots = torch.randperm(num_rows + 1, generator=generator, device="cuda")[:num_rows]
        own = torch.randint(1, 5 * PAGE, (num_rows,), generator=generator, device="cuda")
        lengths = (num_pages * PAGE + own).to(torch.int32)
        for share in (1.0, 0.6, 0.0):  # of the rows, in any order
            begins_alike = torch.rand(num_rows, generator=generator, device="cuda") < share
            tables[slots[begins_alike], :num_pages] = tables[-1, :num_pages]
            counts = (begins_alike * num_pages * PAGE).to(torch.int32)
            pair, shared = (cache[0], cache[1]), (tables[-1].clone(), counts)
            ours = decode_attention(
                query, pair, tables, slots, lengths, splits=1, tile=tile, shared=shared
            )
            twin = masked_attention(query.float(), pair, tables, slots, lengths)
            error = difference(ours, twin)
            assert error <= TOLERANCE[query_dtype], f"{num_rows} rows, {share}: {error:.1e}"


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, FP8], ids=str)
@torch.inference_mode()
def test_no_kernel_is_switched_off(kv_dtype: torch.dtype) -> None:
    model = load_model(TINY, device="cuda", dtype=torch.bfloat16)
    assert kernel_errors(FUSION, model, kv_dtype) == {}


def asked(num: int) -> list[EngineRequest]:
    """Most begin with one context of five pages, some with another and some with none."""
    contexts = (tuple(range(10, 10 + 5 * PAGE)), tuple(range(12, 12 + 2 * PAGE)), ())
    recordings = clips()
    return [
        EngineRequest(
            request_id=str(i),
            samples=recordings[i % 8],
            tokens_before=(*contexts[0 if i % 7 else 1 + i % 2], *BEFORE),
            tokens_after=AFTER,
            max_new_tokens=10 + 3 * (i % 17),
        )
        for i in range(num)
    ]


async def answers(runner: TorchRunner, requests: list[EngineRequest]) -> list[list[int]]:
    options = EngineOptions(max_num_seqs=runner.num_slots, max_model_len=768)
    engine = EngineClient([EngineCore(runner, options)])
    engine.start()

    async def answer(request: EngineRequest) -> list[int]:
        return [token async for chunk in engine.submit(request) for token in chunk.token_ids]

    try:
        return await asyncio.gather(*(answer(request) for request in requests))
    finally:
        engine.stop()


@pytest.mark.parametrize("use_graphs", [True, False], ids=["graphs", "calls"])
def test_answers_are_those_of_the_plain_runner(use_graphs: bool) -> None:
    """In float32, while sequences that share the beginning come and go."""
    torch.backends.cudnn.allow_tf32 = False
    model = load_model(TINY, device="cuda", dtype=torch.float32)
    sizes = {"num_slots": 96, "max_model_len": 768}
    options = GraphOptions(fusion=FUSION, use_graphs=use_graphs, check_kernels=False)
    fast = GraphRunner(model, **sizes, options=options)
    shared = []
    point_rows_at = fast._loop.point_rows_at

    def noted(*arguments: object) -> None:
        point_rows_at(*arguments)  # type: ignore[arg-type]
        shared.append(fast._loop.shares)

    fast._loop.point_rows_at = noted  # type: ignore[method-assign]
    requests = asked(200)
    ours = asyncio.run(answers(fast, requests))
    theirs = asyncio.run(answers(TorchRunner(model, **sizes), requests))
    assert any(shared)
    assert not all(shared)
    assert bool(fast._loop.shared_graphs) == use_graphs
    assert ours == theirs
