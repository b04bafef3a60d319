"""A beginning that many sequences share is read once for all of them: attention equals its twin
whoever shares it, and answers equal those of the plain runner. Needs a CUDA device."""

from __future__ import annotations

import asyncio
from dataclasses import replace

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
FUSION = Fusion(shared=True)


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


@pytest.mark.parametrize("tile", [(64, 4, 3), (64, 2, 1), (32, 1, 1), (16, 1, 4)], ids=str)
@torch.inference_mode()
def test_8_bit_values_are_widened_in_registers_to_the_same(
    tile: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN among them: every value of 8 bits, at every place of a page."""
    from predictor.model.cuda.kernels import attention

    num_rows, width, dim = 64, 5, 128
    generator = torch.Generator("cuda").manual_seed(0)
    bits = torch.arange(num_rows * width * PAGE * 8 * dim, device="cuda") * 37 % 256
    values = bits.to(torch.uint8).view(FP8).view(-1, PAGE, 8, dim)
    keys = torch.randn(values.shape, generator=generator, device="cuda").to(FP8)
    tables = torch.randperm(len(values), generator=generator, device="cuda").view(-1, width)
    query = torch.randn(num_rows, 16, dim, generator=generator, device="cuda").bfloat16()
    slots = torch.arange(num_rows, device="cuda")
    lengths = (1 + 5 * slots).clamp(max=width * PAGE).to(torch.int32)
    for pair in ((keys, values), (keys, values.float().nan_to_num().to(FP8))):
        outputs = []
        for widens in (False, True):
            monkeypatch.setattr(attention, "WIDENS_IN_REGISTERS", widens)
            outputs.append(
                attention.decode_attention(
                    query, pair, tables, slots, lengths, splits=1, tile=tile
                ).float()
            )
        assert outputs[0].allclose(outputs[1], rtol=1e-2, atol=1e-2, equal_nan=True)
    assert outputs[0].isfinite().all()


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, FP8], ids=str)
@torch.inference_mode()
def test_no_kernel_is_switched_off(kv_dtype: torch.dtype) -> None:
    model = load_model(TINY, device="cuda", dtype=torch.bfloat16)
    assert kernel_errors(replace(FUSION, gelu=True, ffn_rows=2), model, kv_dtype) == {}


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
