"""Triton kernels of a small-batch decode step's attention: the query's and key's way from the
product to the residual sum. See `small_batch.py`, and `model/cuda/decoder.py` for the plain twins.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from predictor.model.cuda.kernels.decoder import as_multiplied, as_stored, places_of
from predictor.model.cuda.kernels.small_batch import ELEMENTS, begin, has_pdl, launch_options

LOG2_E = 1.4426950408889634
TILE = 16  # the least rows that a matrix unit multiplies; grouped query heads fill some of them
# Programs among which a sequence's cache of one key head is divided: of one sequence, and of each
# of several.
SPLITS, SPLITS_OF_EACH = 8, 4
PROGRAMS = 128  # at least so many multiply what attention gave, if there are as many rows
SPLITS_OF = ((4, 8), (8, 4), (16, 2))  # the same with up to so many sequences, as measured


@triton.jit
def _rotated(low, high, norm_low, norm_high, cos, sin, eps, HALF: tl.constexpr):
    """Norm and rotate heads [R, HALF] x 2, rounded to their type."""
    dtype = low.dtype
    low, high = low.to(tl.float32), high.to(tl.float32)
    power = tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)
    scale = tl.rsqrt(power / (2 * HALF) + eps)[:, None]
    low, high = low * scale * norm_low, high * scale * norm_high
    return (low * cos - high * sin).to(dtype), (high * cos + low * sin).to(dtype)


@triton.jit
def _tokens_of_split(position, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """How many of `position` cached tokens each split has, but for the last ones: whole blocks."""
    return tl.cdiv(tl.cdiv(position, SPLITS), BLOCK) * BLOCK


@triton.jit(do_not_specialize=["table_stride"])
def _attention_kernel(
    qkv_ptr,
    norm_ptr,
    cos_ptr,
    sin_ptr,
    tables_ptr,
    slots_ptr,
    positions_ptr,
    keys_ptr,
    values_ptr,
    sums_ptr,
    peak_ptr,
    total_ptr,
    arrived_ptr,
    out_ptr,
    table_stride,
    scale,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    SPLITS: tl.constexpr,
    MERGE: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    dim: tl.constexpr = 2 * HALF
    group: tl.constexpr = HEADS // KV_HEADS
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    slot = tl.load(slots_ptr + row)
    position = tl.load(positions_ptr + row)
    half = tl.arange(0, HALF)
    cos = tl.load(cos_ptr + position * HALF + half).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + position * HALF + half).to(tl.float32)[None, :]
    qkv = qkv_ptr + row * ((HEADS + 2 * KV_HEADS) * dim)
    member = tl.arange(0, TILE)
    is_head = (member < group)[:, None]
    head = kv_head * group + member
    offsets = head[:, None] * dim + half[None, :]
    lane = tl.arange(0, dim)
    table = tables_ptr + slot * table_stride
    base = kv_head * dim
    share = _tokens_of_split(position, SPLITS, BLOCK)
    first = split * share
    last = tl.minimum(first + share, position)
    at = first + tl.arange(0, BLOCK)
    keys = keys_ptr + base + half[:, None]
    rows = places_of(table, first, last, PAGE, BLOCK) * (KV_HEADS * dim)
    keys_low = tl.load(keys + rows[None, :], mask=(at < last)[None, :], other=0.0)
    keys_high = tl.load(keys + HALF + rows[None, :], mask=(at < last)[None, :], other=0.0)
    values = tl.load(
        values_ptr + base + rows[:, None] + lane[None, :], mask=(at < last)[:, None], other=0.0
    )
    # Pages are looked up a block ahead, so that no load waits for another.
    rows = places_of(table, first + BLOCK, last, PAGE, BLOCK) * (KV_HEADS * dim)
    newest = tl.load(table + position // PAGE) * PAGE + position % PAGE
    norm_low = tl.load(norm_ptr + offsets, mask=is_head, other=0.0)
    norm_high = tl.load(norm_ptr + offsets + HALF, mask=is_head, other=0.0)
    key = (HEADS + kv_head) * dim + half[None, :]
    key_norm_low, key_norm_high = tl.load(norm_ptr + key), tl.load(norm_ptr + key + HALF)
    begin(PDL)  # what was read so far is older than the kernel ahead
    query_low, query_high = _rotated(
        tl.load(qkv + offsets, mask=is_head, other=0.0),
        tl.load(qkv + offsets + HALF, mask=is_head, other=0.0),
        norm_low.to(tl.float32),
        norm_high.to(tl.float32),
        cos, sin, eps, HALF,
    )  # fmt: skip
    key_low, key_high = _rotated(
        tl.load(qkv + key),
        tl.load(qkv + key + HALF),
        key_norm_low.to(tl.float32),
        key_norm_high.to(tl.float32),
        cos, sin, eps, HALF,
    )  # fmt: skip
    value = tl.load(qkv + (HEADS + KV_HEADS + kv_head) * dim + lane)
    # The first split has the new token, which no cache holds yet, and writes it there; what it
    # attends to is what was written.
    dtype: tl.constexpr = keys_ptr.dtype.element_ty
    query_low, query_high = as_multiplied(query_low, dtype), as_multiplied(query_high, dtype)
    key_low, key_high = as_stored(key_low, dtype), as_stored(key_high, dtype)
    value = as_stored(value, dtype)
    is_first = split == 0
    place = base + newest * (KV_HEADS * dim)
    tl.store(keys_ptr + place + half[None, :], key_low, mask=is_first)
    tl.store(keys_ptr + place + HALF + half[None, :], key_high, mask=is_first)
    tl.store(values_ptr + place + lane, value, mask=is_first)
    score = tl.sum(query_low.to(tl.float32) * key_low.to(tl.float32), axis=1)
    score += tl.sum(query_high.to(tl.float32) * key_high.to(tl.float32), axis=1)
    own = tl.where(is_first, 1.0, 0.0)
    peak = tl.where(is_first, score * scale, -float("inf"))
    total = tl.zeros([TILE], tl.float32) + own
    sums = tl.zeros([TILE, dim], tl.float32) + value.to(tl.float32)[None, :] * own
    for start in range(first, last, BLOCK):
        exists = start + tl.arange(0, BLOCK) < last
        keys_low, keys_high = keys_low.to(query_low.dtype), keys_high.to(query_low.dtype)
        scores = tl.dot(query_low, keys_low, input_precision=PRECISION)
        scores = (scores + tl.dot(query_high, keys_high, input_precision=PRECISION)) * scale
        scores = tl.where(exists[None, :], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_peak[:, None])
        fade = tl.exp2(peak - new_peak)
        total = total * fade + tl.sum(weights, axis=1)
        values = values.to(query_low.dtype)
        products = tl.dot(weights.to(query_low.dtype), values, input_precision=PRECISION)
        sums = sums * fade[:, None] + products
        peak = new_peak
        at = start + BLOCK + tl.arange(0, BLOCK)
        keys_low = tl.load(keys + rows[None, :], mask=(at < last)[None, :], other=0.0)
        keys_high = tl.load(keys + HALF + rows[None, :], mask=(at < last)[None, :], other=0.0)
        values = tl.load(
            values_ptr + base + rows[:, None] + lane[None, :], mask=(at < last)[:, None], other=0.0
        )
        rows = places_of(table, start + 2 * BLOCK, last, PAGE, BLOCK) * (KV_HEADS * dim)
    parts = (row * HEADS + head) * SPLITS
    part = parts + split
    tl.store(sums_ptr + part[:, None] * dim + lane[None, :], sums, mask=is_head)
    tl.store(peak_ptr + part, peak, mask=member < group)
    tl.store(total_ptr + part, total, mask=member < group)
    if MERGE:
        # Whichever split ends last merges them all. The barrier lets all of this program's threads
        # have written before one of them says so.
        arrived = arrived_ptr + row * KV_HEADS + kv_head
        tl.debug_barrier()
        if tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu") == SPLITS - 1:
            tl.store(arrived, 0)
            is_member = member < group
            best = tl.load(peak_ptr + parts, mask=is_member, other=0.0)
            for other in tl.static_range(1, SPLITS):
                best = tl.maximum(
                    best, tl.load(peak_ptr + parts + other, mask=is_member, other=0.0)
                )
            weight = tl.zeros([TILE], tl.float32)
            merged = tl.zeros([TILE, dim], tl.float32)
            for other in tl.static_range(SPLITS):
                theirs = parts + other
                share_of = tl.exp2(tl.load(peak_ptr + theirs, mask=is_member, other=0.0) - best)
                weight += share_of * tl.load(total_ptr + theirs, mask=is_member, other=1.0)
                rows_of = sums_ptr + theirs[:, None] * dim + lane[None, :]
                merged += share_of[:, None] * tl.load(rows_of, mask=is_head, other=0.0)
            target = out_ptr + (row * HEADS + head)[:, None] * dim + lane[None, :]
            merged = merged / weight[:, None]
            tl.store(target, merged.to(out_ptr.dtype.element_ty), mask=is_head)


@triton.jit
def _attended_kernel(
    sums_ptr,
    peak_ptr,
    total_ptr,
    weight_ptr,
    scale_ptr,
    positions_ptr,
    out_ptr,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    is_row, is_column = n < N, k < K
    inside = is_row[:, None] & is_column[None, :]
    weight = tl.load(weight_ptr + n[:, None] * K + k[None, :], mask=inside, other=0.0)
    counts = ()  # of splits that have tokens
    for row in tl.static_range(ROWS):
        position = tl.load(positions_ptr + row)
        share = tl.maximum(_tokens_of_split(position, SPLITS, BLOCK), 1)
        counts += (tl.cdiv(position, share),)  # type: ignore[assignment]
    begin(PDL)
    dtype = out_ptr.dtype.element_ty
    for row in tl.static_range(ROWS):
        part = (row * (K // DIM) + k // DIM) * SPLITS
        peak = tl.load(peak_ptr + part, mask=is_column, other=0.0)
        for split in tl.static_range(1, SPLITS):
            peak = tl.maximum(peak, tl.load(peak_ptr + part + split, mask=is_column, other=0.0))
        total = tl.zeros([BLOCK_K], tl.float32)
        sums = tl.zeros([BLOCK_K], tl.float32)
        for split in tl.static_range(SPLITS):
            at = part + split
            share = tl.exp2(tl.load(peak_ptr + at, mask=is_column, other=0.0) - peak)
            total += share * tl.load(total_ptr + at, mask=is_column, other=1.0)
            # A split without tokens has no share either, and its sums would take time to read.
            at = part + tl.where(split < counts[row], split, 0)
            sums += share * tl.load(sums_ptr + at * DIM + k % DIM, mask=is_column, other=0.0)
        x = (sums / total).to(dtype).to(tl.float32)
        out = tl.sum(weight.to(tl.float32) * x[None, :], axis=1)
        if SCALED:
            out = out * tl.load(scale_ptr + n, mask=is_row, other=0.0)
        place = out_ptr + row * N + n
        before = tl.load(place, mask=is_row, other=0.0).to(tl.float32)
        tl.store(place, (before + out.to(dtype).to(tl.float32)).to(dtype), mask=is_row)


def add_attended(
    qkv: Tensor,
    norm: Tensor,
    table: tuple[Tensor, Tensor],
    tables: Tensor,
    slots: Tensor,
    positions: Tensor,
    cache: tuple[Tensor, Tensor],
    weight: Tensor,
    scale: Tensor | None,
    x: Tensor,
    eps: float,
) -> None:
    """x += attention of one new token of each sequence over its pages, through the output matrix.

    qkv [rows, H + 2K, D] as the product left it; norm [H + K, D] of its heads; table: cosines and
    sines [positions, D / 2]; tables [slots, pages of a sequence] int64: which pages each slot's
    sequence has; cache: keys and values [pages, tokens of a page, K, D], into which the new token
    is written at its position; weight [hidden, H * D]; x [rows, hidden].
    """
    num_rows, all_heads, dim = qkv.shape
    heads = all_heads - 2 * cache[0].shape[2]
    splits = SPLITS if num_rows == 1 else SPLITS_OF_EACH
    parts = _parts(num_rows, heads, splits, dim, x.device)
    sums, peak, total = parts
    _attend(qkv, norm, table, tables, slots, positions, cache, parts, None, eps)
    pdl = has_pdl()
    n, k = weight.shape
    block_k = triton.next_power_of_2(k)
    # One program for each multiprocessor, since all read the same sums.
    rows_of_one = triton.next_power_of_2(triton.cdiv(n, PROGRAMS))
    block_n = min(max(1, 2 * ELEMENTS // block_k), rows_of_one)
    num_programs = triton.cdiv(n, block_n)
    _attended_kernel[(num_programs,)](
        sums, peak, total, weight, weight if scale is None else scale, positions, x,
        ROWS=num_rows, N=n, K=k, DIM=dim, BLOCK_N=block_n, BLOCK_K=block_k,
        BLOCK=_block_of(qkv), SPLITS=splits, SCALED=scale is not None, PDL=pdl, num_warps=8,
        **launch_options(pdl),
    )  # fmt: skip


def attended(
    qkv: Tensor,
    norm: Tensor,
    table: tuple[Tensor, Tensor],
    tables: Tensor,
    slots: Tensor,
    positions: Tensor,
    cache: tuple[Tensor, Tensor],
    arrived: Tensor,
    eps: float,
) -> Tensor:
    """Attention of one new token of each sequence over its pages: [rows, H * D], as `qkv`.

    `arrived` [rows * K or more] int32: zeros, and zeros again afterwards; not for two launches that
    may run at once. The other arguments are those of `add_attended`.
    """
    num_rows, all_heads, dim = qkv.shape
    heads = all_heads - 2 * cache[0].shape[2]
    out = qkv.new_empty(num_rows, heads * dim)
    splits = next(splits for most, splits in SPLITS_OF if num_rows <= most)
    parts = _parts(num_rows, heads, splits, dim, qkv.device)
    _attend(qkv, norm, table, tables, slots, positions, cache, parts, (arrived, out), eps)
    return out


def _parts(
    num_rows: int, heads: int, splits: int, dim: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, peaks and totals of each split."""
    shape = (num_rows, heads, splits)
    sums = torch.empty(*shape, dim, dtype=torch.float32, device=device)
    peak = torch.empty(shape, dtype=torch.float32, device=device)
    return sums, peak, torch.empty_like(peak)


def _block_of(qkv: Tensor) -> int:
    """Cached tokens that are multiplied at a time."""
    return 32 if qkv.dtype == torch.float32 else 64


def _attend(
    qkv: Tensor,
    norm: Tensor,
    table: tuple[Tensor, Tensor],
    tables: Tensor,
    slots: Tensor,
    positions: Tensor,
    cache: tuple[Tensor, Tensor],
    parts: tuple[Tensor, Tensor, Tensor],
    merged: tuple[Tensor, Tensor] | None,
    eps: float,
) -> None:
    """Fill what `_parts` made; and `merged`: the counters of `attended`, and its result."""
    num_rows, all_heads, dim = qkv.shape
    keys, values = cache
    page_tokens, kv_heads = keys.shape[1:3]
    heads, splits = all_heads - 2 * kv_heads, parts[1].shape[2]
    in_float32 = qkv.dtype == torch.float32
    pdl = has_pdl()
    arrived, out = parts[:2] if merged is None else merged
    _attention_kernel[(num_rows, kv_heads, splits)](
        qkv, norm, *table, tables, slots, positions, keys, values, *parts, arrived, out,
        tables.stride(0), LOG2_E / dim**0.5, eps,
        HEADS=heads, KV_HEADS=kv_heads, HALF=dim // 2,
        TILE=max(TILE, triton.next_power_of_2(heads // kv_heads)),
        BLOCK=_block_of(qkv), PAGE=page_tokens, SPLITS=splits,
        MERGE=merged is not None, PRECISION="ieee" if in_float32 else "tf32", PDL=pdl,
        num_warps=4, num_stages=1 if in_float32 else 2, **launch_options(pdl),
    )  # fmt: skip
