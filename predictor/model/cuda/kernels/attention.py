"""Triton kernels of decode attention: one new token of each sequence over its pages of the cache.

A beginning that many sequences share would be read once for each of them. It is read once for a
tile of their queries instead, and each sequence goes on from what that gave.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from predictor.model.cuda.kernels.decoder import as_multiplied, places_of

LOG2_E = 1.4426950408889634
ROWS_OF_A_TILE = 16  # the least that a matrix unit multiplies; grouped query heads fill some
SHARED_ROWS = 64  # query heads, of several sequences, that one program multiplies a beginning with
SHARED_BLOCK = 64  # tokens of it at a time
SHARES = 2  # programs among which the beginning is divided


@triton.jit
def _attended(
    query,
    keys_ptr,
    values_ptr,
    table,
    first,
    last,
    peak,
    total,
    sums,
    scale,
    TOKEN: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the tokens from `first`, a multiple of BLOCK, to `last` of the pages in `table`."""
    dim = tl.arange(0, DIM)
    for start in range(first, last, BLOCK):
        exists = start + tl.arange(0, BLOCK) < last
        offsets = places_of(table, start, last, PAGE, BLOCK) * TOKEN
        keys = tl.load(keys_ptr + offsets[None, :] + dim[:, None], mask=exists[None, :], other=0.0)
        scores = tl.dot(query, keys.to(query.dtype), input_precision=PRECISION) * scale
        scores = tl.where(exists[None, :], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_peak[:, None])
        fade = tl.exp2(peak - new_peak)
        total = total * fade + tl.sum(weights, axis=1)
        values = tl.load(
            values_ptr + offsets[:, None] + dim[None, :], mask=exists[:, None], other=0.0
        )
        values = values.to(query.dtype)
        products = tl.dot(weights.to(query.dtype), values, input_precision=PRECISION)
        sums = sums * fade[:, None] + products
        peak = new_peak
    return peak, total, sums


@triton.jit(do_not_specialize=["table_stride"])
def _attention_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    tables_ptr,
    slots_ptr,
    lengths_ptr,
    counts_ptr,
    shared_sums_ptr,
    shared_peak_ptr,
    shared_total_ptr,
    out_ptr,
    peak_ptr,
    total_ptr,
    query_stride,
    table_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    SPLITS: tl.constexpr,
    SHARES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    slot = tl.load(slots_ptr + row)
    length = tl.load(lengths_ptr + row)
    head = kv_head * GROUP + tl.arange(0, TILE)
    is_head = tl.arange(0, TILE) < GROUP
    dim = tl.arange(0, DIM)
    query = tl.load(
        query_ptr + row * query_stride + head[:, None] * DIM + dim[None, :],
        mask=is_head[:, None],
        other=0.0,
    )
    query = as_multiplied(query, keys_ptr.dtype.element_ty)
    table = tables_ptr + slot * table_stride
    base = kv_head * DIM
    peak = tl.full([TILE], -float("inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    sums = tl.zeros([TILE, DIM], tl.float32)
    if SHARES == 0:
        share = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK) * BLOCK
        first = split * share
        last = tl.minimum(first + share, length)
    else:  # behind what the shared kernel has read, whose parts come first
        first = tl.load(counts_ptr + row)
        last = length
        is_there = is_head & (first > 0)
        for index in tl.static_range(SHARES):
            part = (row * KV_HEADS * GROUP + head) * SHARES + index
            own_peak = tl.load(shared_peak_ptr + part, mask=is_there, other=-float("inf"))
            new_peak = tl.maximum(peak, own_peak)
            # Where nothing was seen both are minus infinity, whose difference is no number.
            fade = tl.where(peak == new_peak, 1.0, tl.exp2(peak - new_peak))
            weight = tl.where(own_peak == new_peak, 1.0, tl.exp2(own_peak - new_peak))
            own_total = tl.load(shared_total_ptr + part, mask=is_there, other=0.0)
            total = total * fade + own_total * weight
            own_sums = tl.load(
                shared_sums_ptr + part[:, None] * DIM + dim[None, :],
                mask=is_there[:, None],
                other=0.0,
            )
            sums = sums * fade[:, None] + own_sums * weight[:, None]
            peak = new_peak
    peak, total, sums = _attended(
        query, keys_ptr + base, values_ptr + base, table, first, last, peak, total, sums, scale,
        KV_HEADS * DIM, DIM, BLOCK, PAGE, PRECISION,
    )  # fmt: skip
    if SPLITS == 1:
        out = sums / total[:, None]
        offsets = (row * KV_HEADS * GROUP + head[:, None]) * DIM + dim[None, :]
        tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), mask=is_head[:, None])
    else:
        part = (row * KV_HEADS * GROUP + head) * SPLITS + split
        tl.store(out_ptr + part[:, None] * DIM + dim[None, :], sums, mask=is_head[:, None])
        tl.store(peak_ptr + part, peak, mask=is_head)
        tl.store(total_ptr + part, total, mask=is_head)


@triton.jit(do_not_specialize=["num_rows"])
def _shared_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    table_ptr,
    counts_ptr,
    sums_ptr,
    peak_ptr,
    total_ptr,
    num_rows,
    query_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    SHARES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    kv_head = tl.program_id(1)
    index = tl.program_id(2)
    member = tl.arange(0, ROWS)
    row = tl.program_id(0) * (ROWS // GROUP_ROWS) + member // GROUP_ROWS
    count = tl.load(counts_ptr + row, mask=row < num_rows, other=0)
    end = tl.max(count, axis=0)
    share = tl.cdiv(tl.cdiv(end, SHARES), BLOCK) * BLOCK
    first = index * share
    last = tl.minimum(first + share, end)
    if end > 0:
        head = kv_head * GROUP + member % GROUP_ROWS
        exists = count > 0
        if GROUP_ROWS != GROUP:  # rows that only fill a power of two
            exists = exists & (member % GROUP_ROWS < GROUP)
        dim = tl.arange(0, DIM)
        wide_row = row.to(tl.int64)
        query = tl.load(
            query_ptr + (wide_row * query_stride + head * DIM)[:, None] + dim[None, :],
            mask=exists[:, None],
            other=0.0,
        )
        query = as_multiplied(query, keys_ptr.dtype.element_ty)
        peak = tl.full([ROWS], -float("inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, DIM], tl.float32)
        peak, total, sums = _attended(
            query, keys_ptr + kv_head * DIM, values_ptr + kv_head * DIM, table_ptr, first, last,
            peak, total, sums, scale, KV_HEADS * DIM, DIM, BLOCK, PAGE, PRECISION,
        )  # fmt: skip
        part = (wide_row * KV_HEADS * GROUP + head) * SHARES + index
        tl.store(sums_ptr + part[:, None] * DIM + dim[None, :], sums, mask=exists[:, None])
        tl.store(peak_ptr + part, peak, mask=exists)
        tl.store(total_ptr + part, total, mask=exists)


@triton.jit
def _merge_kernel(
    sums_ptr,
    peak_ptr,
    total_ptr,
    out_ptr,
    DIM: tl.constexpr,
    SPLITS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    dim = tl.arange(0, DIM)
    peak = tl.load(peak_ptr + row * SPLITS + split)
    weight = tl.exp2(peak - tl.max(peak, axis=0))
    total = tl.sum(weight * tl.load(total_ptr + row * SPLITS + split), axis=0)
    sums = tl.load(sums_ptr + (row * SPLITS + split[:, None]) * DIM + dim[None, :])
    out = tl.sum(sums * weight[:, None], axis=0) / total
    tl.store(out_ptr + row * DIM + dim, out.to(out_ptr.dtype.element_ty))


Parts = tuple[Tensor, Tensor, Tensor]  # sums, peaks and totals of parts of each row


def decode_attention(
    query: Tensor,
    cache: tuple[Tensor, Tensor],
    tables: Tensor,
    slots: Tensor,
    lengths: Tensor,
    *,
    splits: int,
    tile: tuple[int, int, int] = (64, 4, 3),
    shared: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """One new token of each sequence over its pages of the cache, read to its true length.

    query [B, H, D], heads and their elements contiguous; cache: keys and values of one layer,
    [pages, tokens of a page, K, D] each; tables [slots, pages of a sequence] int64: which pages
    each slot's sequence has; slots [B] int64; lengths [B] int32, at least 1. `splits`, a power of
    two, is among how many programs one sequence's cache is divided, so that few
    sequences fill the device too; `tile`: cache rows of one load, warps, loads under way.
    `shared`, where `splits` is 1: pages [n] int64 of a beginning that is read once for all, and
    how many of its tokens each sequence begins with [B] int32: all that any has, or none.
    """
    keys, values = cache
    num_rows, heads, dim = query.shape
    page_tokens, kv_heads = keys.shape[1:3]
    block, num_warps, num_stages = tile
    in_float32 = query.dtype == torch.float32
    out = torch.empty(num_rows, heads, dim, dtype=query.dtype, device=query.device)
    sums, peak, total = out, out, out
    if splits > 1:
        sums, peak, total = _parts(num_rows, heads, splits, dim, out.device)
    counts, begun, shares = lengths, (out, out, out), 0
    if shared is not None:
        assert splits == 1
        table, counts = shared
        begun, shares = shared_attention(query, cache, table, counts), SHARES
    _attention_kernel[(num_rows, kv_heads, splits)](
        query, keys, values, tables, slots, lengths, counts, *begun, sums, peak, total,
        query.stride(0), tables.stride(0), LOG2_E / dim**0.5,
        KV_HEADS=kv_heads, GROUP=heads // kv_heads, DIM=dim,
        TILE=max(ROWS_OF_A_TILE, triton.next_power_of_2(heads // kv_heads)),
        BLOCK=min(block, 32) if in_float32 else block, PAGE=page_tokens, SPLITS=splits,
        SHARES=shares, PRECISION="ieee" if in_float32 else "tf32",
        num_warps=num_warps, num_stages=1 if in_float32 else num_stages,
    )  # fmt: skip
    if splits > 1:
        _merge_kernel[(num_rows * heads,)](
            sums, peak, total, out, DIM=dim, SPLITS=splits, num_warps=4
        )
    return out


def shared_attention(
    query: Tensor, cache: tuple[Tensor, Tensor], table: Tensor, counts: Tensor
) -> Parts:
    """What the beginning in the pages `table` gives the queries [B, H, D] of the sequences that
    begin with it, as `decode_attention` takes it: sums [B, H, SHARES, D], peaks and totals
    [B, H, SHARES]. Rows whose `counts` [B] int32 are 0 are not written."""
    keys, values = cache
    num_rows, heads, dim = query.shape
    page_tokens, kv_heads = keys.shape[1:3]
    in_float32 = query.dtype == torch.float32
    group_rows = triton.next_power_of_2(heads // kv_heads)
    rows = max(SHARED_ROWS, group_rows)
    num_tiles = triton.cdiv(num_rows, rows // group_rows)
    parts = _parts(num_rows, heads, SHARES, dim, query.device)
    _shared_kernel[(num_tiles, kv_heads, SHARES)](
        query, keys, values, table, counts, *parts, num_rows, query.stride(0), LOG2_E / dim**0.5,
        KV_HEADS=kv_heads, GROUP=heads // kv_heads, GROUP_ROWS=group_rows, DIM=dim, ROWS=rows,
        BLOCK=32 if in_float32 else SHARED_BLOCK, PAGE=page_tokens, SHARES=SHARES,
        PRECISION="ieee" if in_float32 else "tf32",
        num_warps=4, num_stages=1 if in_float32 else 3,
    )  # fmt: skip
    return parts


def _parts(num_rows: int, heads: int, count: int, dim: int, device: torch.device) -> Parts:
    sums = torch.empty(num_rows, heads, count, dim, dtype=torch.float32, device=device)
    peak = torch.empty(num_rows, heads, count, dtype=torch.float32, device=device)
    return sums, peak, torch.empty_like(peak)
