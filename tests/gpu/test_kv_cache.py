"""The 8-bit cache on a GPU: kernels against their twins, and the error rates of the embedded
checkpoint. Needs a CUDA device of compute capability 8.9 or higher: `pytest -m gpu`."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from predictor.engine import EngineClient, EngineCore, EngineOptions, build_engine
from predictor.engine.cuda.parity import checked, difference, kernel_errors
from predictor.engine.runner import TorchRunner
from predictor.engine.start.build import make_runner
from predictor.model.attention import FP8, write_places
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import Fusion, masked_attention
from predictor.model.precision import Precision, choose_kv_dtype
from predictor.model.quantized import quantize
from predictor.types import EngineRequest
from tests.gpu.test_cuda import TINY, Spoken, answers, error_rate, recordings
from tests.model.checkpoints import clip
from tests.model.kv_cache_checks import (
    SHARED,
    Way,
    attended_newest,
    by_kernels,
    by_the_small_batch_kernel,
    by_the_tiled_step,
    every_value,
    num_different,
    plainly,
    through_a_view,
    wrongly_kept,
)

CUDA = torch.device("cuda")
TYPES = [torch.bfloat16, torch.float16]
# Queries are float16, and probabilities: 2^-12 of each at most. What comes out has 8 bits or 11.
TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 1e-3}
# Heads, key heads and their width: of 1.7B, of the embedded checkpoint, and one key head alone.
SHAPES = [(16, 8, 128), (4, 2, 64), (8, 1, 32)]
WAYS = {
    "split 1": by_kernels,
    "split 8": partial(by_kernels, splits=8),
    "small_batch": by_the_small_batch_kernel,
    "tiled": by_the_tiled_step,
    "twins": plainly,
    "view": through_a_view,
}


def refusal() -> str | None:
    if not torch.cuda.is_available():
        return "needs a CUDA device"
    try:
        choose_kv_dtype("fp8", Precision("bfloat16", torch.bfloat16), CUDA)
    except ValueError as error:
        return str(error)
    return None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(refusal() is not None, reason=refusal() or ""),
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@torch.inference_mode()
def test_every_value_is_kept_as_the_nearest(dtype: torch.dtype) -> None:
    assert wrongly_kept(CUDA, dtype) == 0


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@torch.inference_mode()
def test_torch_keeps_the_same_on_this_device(dtype: torch.dtype) -> None:
    values = every_value(dtype).to(CUDA)
    part = torch.zeros(values.shape, device=CUDA).to(FP8)
    write_places(part, torch.arange(len(values), device=CUDA), values)
    assert num_different(part, values) == 0


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@torch.inference_mode()
def test_the_newest_token_is_attended_to_as_it_is_kept(way: Way, dtype: torch.dtype) -> None:
    attended = attended_newest(way, CUDA, dtype).float()
    assert (attended - SHARED).abs().max() <= SHARED * 1e-2


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tile", [(64, 4, 3), (128, 4, 2), (32, 4, 3), (32, 1, 3)], ids=str)
@torch.inference_mode()
def test_attention_equals_its_twin(
    shape: tuple[int, int, int], dtype: torch.dtype, tile: tuple[int, int, int]
) -> None:
    from predictor.model.cuda.kernels import attention as kernels

    num_heads, num_kv_heads, dim = shape
    max_length, worst = 500, 0.0
    generator = torch.Generator(CUDA).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=CUDA)

    for num_rows in (1, 2, 3, 17, 64, 200):
        num_pages = 8 * (num_rows + 1)
        cache = (2 * normal(2, num_pages, 64, num_kv_heads, dim)).to(FP8)
        tables = torch.randperm(num_pages, generator=generator, device=CUDA).view(-1, 8)
        query = normal(num_rows, num_heads, dim).to(dtype)
        slots = torch.randperm(num_rows + 1, generator=generator, device=CUDA)[:num_rows]
        lengths = torch.randint(1, max_length + 1, (num_rows,), generator=generator, device=CUDA)
        lengths[0] = max_length
        lengths = lengths.to(torch.int32)
        pair = (cache[0], cache[1])
        twin = masked_attention(query.float(), pair, tables, slots, lengths)
        for splits in (1, 8, 32):
            ours = kernels.decode_attention(
                query, pair, tables, slots, lengths, splits=splits, tile=tile
            )
            assert ours.dtype == dtype
            error = difference(ours, twin)
            worst = max(worst, error)
            assert error <= TOLERANCE[dtype], f"{num_rows} rows, {splits} splits: {error:.1e}"
    print(f"{shape}, {dtype}, tile {tile}: relative difference {worst:.1e} at most")


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "fp8", "int8"])
@torch.inference_mode()
def test_no_kernel_is_switched_off(precision: str) -> None:
    """The small-batch step's, too, by the checks of a start."""
    torch.manual_seed(0)
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    model = load_model(TINY, device=CUDA, dtype=dtype)
    if precision in ("fp8", "int8"):
        quantize(model, precision)
    assert kernel_errors(Fusion(), model, FP8) == {}
    assert checked(Fusion(), model, FP8) == Fusion()


def test_slots_are_scrubbed() -> None:
    model = load_model(TINY, device=CUDA, dtype=torch.bfloat16)
    runner = TorchRunner(model, num_slots=3, max_model_len=20, kv_dtype=FP8)
    runner._cache.data.view(torch.uint8).fill_(0x7F)
    runner.scrub([0, 2])
    numbers = runner._cache.data.float()
    assert numbers[:, :, 1].isnan().all()
    assert not numbers[:, :, ::2].any()


def heard(spoken: list[Spoken], precision: str, kv_dtype: torch.dtype) -> list[tuple[int, ...]]:
    """The embedded checkpoint's answers."""
    model = load_model(TINY, device=CUDA, dtype=torch.bfloat16)
    if precision != "bf16":
        quantize(model, precision)
    runner: Any = make_runner(
        model,
        num_slots=32,
        max_model_len=1024,
        max_prefill_audio_s=120.0,
        max_prefill_tokens=8192,
        kv_dtype=kv_dtype,
    )
    assert runner._cache.data.dtype == kv_dtype
    assert runner.fusion == Fusion()
    engine = EngineClient([EngineCore(runner, EngineOptions(max_num_seqs=32, max_model_len=1024))])
    engine.start()
    try:
        return answers(engine, [item.request for item in spoken], at_once=200)
    finally:
        engine.stop()


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_recordings_are_heard_with_as_few_errors(precision: str) -> None:
    spoken = recordings()
    plain, ours = heard(spoken, precision, torch.bfloat16), heard(spoken, precision, FP8)
    plain_rate, our_rate = error_rate(spoken, plain), error_rate(spoken, ours)
    same = sum(a == b for a, b in zip(plain, ours, strict=True))
    print(
        f"{len(spoken)} recordings, weights in {precision}: errors {plain_rate:.2%} with a cache "
        f"in bfloat16, {our_rate:.2%} in fp8; {same} token for token the same"
    )
    assert our_rate <= plain_rate + 0.005


def test_more_than_fits_waits_and_is_answered() -> None:
    options = EngineOptions(max_num_seqs=3, max_model_len=640, kv_precision="fp8")
    requests = [
        EngineRequest(str(i), clip(0.3 + (7 * i % 29), seed=i), (1,), (2,), max_new_tokens=30)
        for i in range(40)
    ]
    engine = EngineClient([build_engine(TINY, "cuda", "bfloat16", options)])
    engine.start()
    try:
        together = answers(engine, requests, at_once=40)
        alone = answers(engine, requests[:10], at_once=1)
    finally:
        engine.stop()
    assert engine.stats().num_slots == 3
    assert engine.stats().num_finished == 50
    assert engine.stats().num_failed == 0
    # Batches of other sizes sum in another order, which decides near ties: not all are the same.
    agreed = sum(
        next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
        for a, b in zip(alone, together, strict=False)
    )
    assert agreed >= 0.6 * sum(map(len, alone))


def test_float32_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kv_precision 'fp8' needs .*, not fp32"):
        build_engine(TINY, "cuda", "float32", EngineOptions(kv_precision="fp8"))
