"""A cache in 8 bits: the plain twins on the CPU, the kernels in the interpreter, and refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from predictor.model.attention import FP8, CacheView, KvCache, write_places
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import masked_attention
from predictor.model.precision import Precision, choose_kv_dtype
from tests.model.checkpoints import EMBEDDED
from tests.model.kv_cache_checks import (
    SHARED,
    Way,
    attended_newest,
    every_value,
    kept,
    num_different,
    plainly,
    through_a_view,
)

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IN_BF16 = Precision("bfloat16", torch.bfloat16)


@pytest.mark.parametrize("more", [(), pytest.param(("--whole",), marks=pytest.mark.soak)])
def test_kernels_equal_plain_torch(more: tuple[str, ...]) -> None:
    """In Triton's interpreter, which must be chosen before Triton is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.model.kv_cache_parity", *more]
    subprocess.run(command, cwd=ROOT, check=True, timeout=3000 if more else 800)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_value_is_kept_as_the_nearest(dtype: torch.dtype) -> None:
    values = every_value(dtype)
    part = torch.zeros(70, 8, 128).to(FP8)
    places = torch.randperm(70, generator=torch.Generator().manual_seed(0))[:64]
    write_places(part, places, values)
    assert num_different(part[places], values) == 0
    untouched = torch.ones(70, dtype=torch.bool)
    untouched[places] = False
    assert part[untouched].float().abs().max() == 0


def test_what_is_kept_by_example() -> None:
    values = torch.tensor([1.0, 17.0, 16.9, 19.0, 460.0, 1e4, -torch.inf, 0.0009, torch.nan])
    expected = torch.tensor([1.0, 16.0, 16.0, 20.0, 448.0, 448.0, -448.0, 0.0, torch.nan])
    assert torch.equal(kept(values).float().nan_to_num(9.0), expected.nan_to_num(9.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", [plainly, through_a_view])
def test_the_newest_token_is_attended_to_as_it_is_kept(way: Way, dtype: torch.dtype) -> None:
    attended = attended_newest(way, CPU, dtype)
    assert attended.dtype == dtype
    assert (attended.float() - SHARED).abs().max() <= SHARED * 1e-2


def filled_cache(dtype: torch.dtype) -> KvCache:
    cache = KvCache(
        num_layers=2,
        num_pages=4,
        page_tokens=9,
        num_kv_heads=2,
        head_dim=16,
        device=CPU,
        dtype=dtype,
    )
    cache.data.copy_(torch.randn(cache.data.shape, generator=torch.Generator().manual_seed(1)))
    return cache


@pytest.mark.parametrize("slots", [[1, 2], [3, 0]], ids=["adjoining", "apart"])
def test_a_view_reads_what_was_written(slots: list[int]) -> None:
    cache = filled_cache(FP8)
    view = CacheView.of([[slot] for slot in slots], [5, 7], 9, device=CPU)
    keys, values = view.read(cache, 1)  # [B, K, L, D]
    for part, read in enumerate((keys, values)):
        expected = cache.data[1, part, :, :7].float()[slots].transpose(1, 2)
        assert torch.equal(read.float(), expected)


def test_a_view_joins_pages_in_the_order_of_the_table() -> None:
    cache = filled_cache(torch.float32)
    view = CacheView.of([[2, 0], [1, 3]], [15, 12], 9, device=CPU)
    keys, _ = view.read(cache, 0)
    assert keys.shape == (2, 2, 15, 16)
    first = cache.data[0, 0, [2, 0]].flatten(0, 1)[:15]  # [L, K, D]
    assert torch.equal(keys[0].transpose(0, 1), first)


def test_attention_is_that_over_the_widened_cache() -> None:
    cache, wide = filled_cache(FP8), filled_cache(torch.float32)
    wide.data.copy_(cache.data)
    query = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(2))
    slots, lengths = torch.tensor([3, 0]), torch.tensor([5, 9])

    def attended(of: KvCache) -> Tensor:
        tables = torch.arange(4)[:, None]
        return masked_attention(query, (of.data[0, 0], of.data[0, 1]), tables, slots, lengths)

    assert torch.equal(attended(cache), attended(wide))


def test_a_cache_in_8_bits_takes_half_of_16() -> None:
    model = load_model(EMBEDDED / "tiny", device="cpu", dtype=torch.bfloat16)
    plain, small = model.new_cache(3, 40), model.new_cache(3, 40, FP8)
    assert plain.data.dtype == torch.bfloat16
    assert 2 * small.data.nbytes == plain.data.nbytes


def test_what_cannot_run_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in (IN_BF16, Precision("float32", torch.float32)):
        for device in (CPU, CUDA):
            assert choose_kv_dtype("auto", precision, device) == precision.dtype
    with pytest.raises(ValueError, match="kv_precision must be auto or fp8, is 'int8'"):
        choose_kv_dtype("int8", IN_BF16, CUDA)
    with pytest.raises(ValueError, match="kv_precision 'fp8' needs a CUDA device, not 'cpu'"):
        choose_kv_dtype("fp8", IN_BF16, CPU)
    with pytest.raises(ValueError, match=r"kv_precision 'fp8' needs .* 16 bits .*, not fp32"):
        choose_kv_dtype("fp8", Precision("float32", torch.float32), CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    for capability, is_served in (((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        if is_served:
            assert choose_kv_dtype("fp8", IN_BF16, CUDA) == FP8
            continue
        message = f"8.9 or higher, Card has compute capability {capability[0]}.{capability[1]}"
        with pytest.raises(ValueError, match=message):
            choose_kv_dtype("fp8", IN_BF16, CUDA)
