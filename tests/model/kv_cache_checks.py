"""What an 8-bit cache must hold and give, by every way there is; for the CPU, the interpreter and
a GPU. Importing it imports no Triton."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from predictor.model.attention import FP8, CacheView, KvCache, cached_attention
from predictor.model.cuda.decoder import _flat, masked_attention, paged, plain_norm_rope_write
from predictor.model.decoder import Rotation

HEADS, KV_HEADS, DIM, MAX_LENGTH = 4, 2, 32, 48
EPS = 1e-6
NUM_ROWS = 2
# Of the newest token: 16.5 is kept as 16, 1000 as 448.
KEY, KEPT_KEY, VALUE, KEPT_VALUE = 16.5, 16.0, 1000.0, 448.0
SHARED = KEPT_VALUE / 2

Way = Callable[[Tensor, Tensor, KvCache], Tensor]


def every_value(dtype: torch.dtype) -> Tensor:
    """All values of a 16-bit type, infinities and NaN too: [64, 8, 128]"""
    return torch.arange(2**16).to(torch.uint16).view(dtype).reshape(64, 8, 128)


def kept(values: Tensor) -> Tensor:
    """What 8 bits hold of 16-bit values, by the nearest number there is; in float64.

    Of two that are as near the even one; beyond the largest, the largest; NaN stays NaN.
    """
    numbers = torch.arange(127, dtype=torch.uint8).view(FP8).double()  # 0 to 448, even ones even
    sizes = values.double().abs().clamp(max=KEPT_VALUE)
    above = torch.searchsorted(numbers, sizes.nan_to_num()).clamp(1, len(numbers) - 1)
    below = above - 1
    middle = (numbers[above] + numbers[below]) / 2
    goes_up = (sizes > middle) | ((sizes == middle) & (above % 2 == 0))
    nearest = torch.where(goes_up, numbers[above], numbers[below])
    return torch.where(values.isnan(), torch.nan, nearest.copysign(values.double()))


def attended_newest(way: Way, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[B, H, D] attended by a second token whose kept key equals the first token's.

    All are SHARED: the first token's value is 0, the second's is KEPT_VALUE, and each has half the
    weight, which it has not if the key or value attended to is not the one kept.
    """
    signs = torch.tensor([1.0, -1.0], device=device).repeat(DIM // 2)
    cache = KvCache(
        num_layers=1, num_pages=3, page_tokens=MAX_LENGTH, num_kv_heads=KV_HEADS, head_dim=DIM,
        device=device, dtype=FP8,
    )  # fmt: skip
    cache.data[0, 0, :, 0].copy_(KEPT_KEY * signs)
    qkv = signs.repeat(NUM_ROWS, HEADS + 2 * KV_HEADS, 1)
    qkv[:, HEADS + KV_HEADS :] = VALUE
    norm = torch.full((HEADS + KV_HEADS, DIM), KEY, device=device)
    norm[:HEADS] = 0.25  # of the query: the scores are near enough
    return way(qkv.to(dtype), norm.to(dtype), cache)


def slots(device: torch.device) -> Tensor:
    return torch.tensor([2, 0], device=device)


def tables(device: torch.device) -> Tensor:
    """Each slot has one page."""
    return torch.arange(3, device=device)[:, None]


def plainly(qkv: Tensor, norm: Tensor, cache: KvCache) -> Tensor:
    """The kernels' plain twins."""
    rotation = Rotation(torch.ones_like(qkv[:, :1]), torch.zeros_like(qkv[:, :1]))
    rows = slots(qkv.device)
    plain_norm_rope_write(qkv, norm, rotation, rows * MAX_LENGTH + 1, _flat(cache, 0), EPS)
    lengths = torch.full_like(rows, 2)
    return masked_attention(qkv[:, :HEADS], paged(cache, 0), tables(rows.device), rows, lengths)


def through_a_view(qkv: Tensor, norm: Tensor, cache: KvCache) -> Tensor:
    """As the runner without kernels does it."""
    heads, rows = qkv[:, : HEADS + KV_HEADS] * norm, slots(qkv.device)
    cache.write(0, rows * MAX_LENGTH + 1, heads[:, HEADS:], qkv[:, HEADS + KV_HEADS :])
    pages = [[page] for page in rows.tolist()]
    view = CacheView.of(pages, [2, 2], MAX_LENGTH, device=qkv.device)
    return cached_attention(heads[:, :HEADS], cache, 0, view)


def by_kernels(qkv: Tensor, norm: Tensor, cache: KvCache, splits: int = 1) -> Tensor:
    """Written by one kernel, read by another."""
    from predictor.model.cuda.kernels import attention
    from predictor.model.cuda.kernels import decoder as kernels

    rows = slots(qkv.device)
    positions = torch.ones_like(rows)
    kernels.norm_rope_write(
        qkv, norm, _table(qkv), positions, rows * MAX_LENGTH + 1, _flat(cache, 0), EPS
    )
    lengths = torch.full_like(rows, 2, dtype=torch.int32)
    return attention.decode_attention(
        qkv[:, :HEADS], paged(cache, 0), tables(rows.device), rows, lengths, splits=splits
    )


def by_the_small_batch_kernel(qkv: Tensor, norm: Tensor, cache: KvCache) -> Tensor:
    """Written and read by one kernel; the output matrix changes nothing."""
    from predictor.model.cuda.kernels import small_batch_attention as attention_kernels

    rows = slots(qkv.device)
    width = HEADS * DIM
    x = torch.zeros(len(rows), width, device=qkv.device, dtype=qkv.dtype)
    attention_kernels.add_attended(
        qkv, norm, _table(qkv), tables(rows.device), rows, torch.ones_like(rows), paged(cache, 0),
        torch.eye(width).to(x), None, x, EPS,
    )  # fmt: skip
    return x.view(len(rows), HEADS, DIM)


def by_the_tiled_step(qkv: Tensor, norm: Tensor, cache: KvCache) -> Tensor:
    """The same kernel, whose last split merges what all have found."""
    from predictor.model.cuda.kernels import small_batch_attention as attention_kernels

    rows = slots(qkv.device)
    arrived = torch.zeros(len(rows) * cache.data.shape[-2], dtype=torch.int32, device=qkv.device)
    attended = attention_kernels.attended(
        qkv, norm, _table(qkv), tables(rows.device), rows, torch.ones_like(rows), paged(cache, 0),
        arrived, EPS,
    )  # fmt: skip
    assert not arrived.any()
    return attended.view(len(rows), HEADS, DIM)


def wrongly_kept(device: torch.device, dtype: torch.dtype) -> int:
    """How many of all 16-bit values the kernel that writes the cache keeps as something else."""
    from predictor.model.cuda.kernels import decoder as kernels

    values = every_value(dtype).to(device)
    num_rows, heads, dim = values.shape
    qkv = torch.cat([torch.ones(num_rows, 2 * heads, dim).to(values), values], dim=1)
    norm = torch.ones(2 * heads, dim).to(values)
    table = torch.ones(2, 1, dim // 2).to(values)
    cache = torch.zeros(2, num_rows, heads, dim, device=device).to(FP8)
    places = torch.arange(num_rows, device=device)
    kernels.norm_rope_write(
        qkv, norm, (table[0], table[1]), torch.zeros_like(places), places, (cache[0], cache[1]), EPS
    )
    return num_different(cache[1], values)


def num_different(cache: Tensor, values: Tensor) -> int:
    """How many elements of an 8-bit cache are not what `kept` says."""
    ours, expected = cache.double().cpu(), kept(values.cpu())
    return int((~ours.isclose(expected, rtol=0, atol=0, equal_nan=True)).sum())


def _table(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """Of no rotation."""
    ones = torch.ones(2, DIM // 2).to(qkv)
    return ones, torch.zeros_like(ones)
