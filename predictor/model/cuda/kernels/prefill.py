"""A Triton kernel for attention inside packed prompts: causal, with grouped heads.

PyTorch's variable-length kernel starts programs for every prompt as if it were the longest one.
Here the host says where each tile of work lies (`prompt_tiles`), so that short prompts and places
that only fill a bucket cost little, and the query heads that share a key head are in one tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from predictor.model.attention import TILE_TOKENS
from predictor.model.cuda.kernels.decoder import as_multiplied, places_of

LOG2_E = 1.4426950408889634


@triton.jit
def _attend(
    query,
    keys_ptr,
    values_ptr,
    token_stride,
    start,
    end,
    token,
    peak,
    total,
    sums,
    scale,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the keys from `start` to `end`; CAUSAL where some are beyond a row's own token."""
    dim = tl.arange(0, DIM)
    for block in range(start, end, BLOCK):
        place = block + tl.arange(0, BLOCK)
        offsets = place.to(tl.int64) * token_stride
        if CAUSAL:
            exists = place < end
            keys = tl.load(
                keys_ptr + offsets[None, :] + dim[:, None], mask=exists[None, :], other=0.0
            )
        else:
            keys = tl.load(keys_ptr + offsets[None, :] + dim[:, None])
        scores = tl.dot(query, keys, input_precision=PRECISION)
        if CAUSAL:
            scores = tl.where(place[None, :] <= token[:, None], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1) * scale)
        weights = tl.exp2(scores * scale - new_peak[:, None])
        fade = tl.exp2(peak - new_peak)
        total = total * fade + tl.sum(weights, axis=1)
        if CAUSAL:
            values = tl.load(
                values_ptr + offsets[:, None] + dim[None, :], mask=exists[:, None], other=0.0
            )
        else:
            values = tl.load(values_ptr + offsets[:, None] + dim[None, :])
        sums = tl.dot(
            weights.to(values.dtype), values, sums * fade[:, None], input_precision=PRECISION
        )
        peak = new_peak
    return peak, total, sums


@triton.jit
def _attend_cached(
    query,
    keys_ptr,
    values_ptr,
    table,
    start,
    end,
    peak,
    total,
    sums,
    scale,
    TOKEN: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the keys from `start`, a multiple of BLOCK, to `end` of a sequence, which lie in the
    cache's pages; WHOLE where these are whole blocks."""
    dim = tl.arange(0, DIM)
    for block in range(start, end, BLOCK):
        offsets = places_of(table, block, end, PAGE, BLOCK) * TOKEN
        if WHOLE:
            keys = tl.load(keys_ptr + offsets[None, :] + dim[:, None])
        else:
            exists = block + tl.arange(0, BLOCK) < end
            keys = tl.load(
                keys_ptr + offsets[None, :] + dim[:, None], mask=exists[None, :], other=0.0
            )
        scores = tl.dot(query, keys.to(query.dtype), input_precision=PRECISION)
        if not WHOLE:
            scores = tl.where(exists[None, :], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1) * scale)
        weights = tl.exp2(scores * scale - new_peak[:, None])
        fade = tl.exp2(peak - new_peak)
        total = total * fade + tl.sum(weights, axis=1)
        if WHOLE:
            values = tl.load(values_ptr + offsets[:, None] + dim[None, :])
        else:
            values = tl.load(
                values_ptr + offsets[:, None] + dim[None, :], mask=exists[:, None], other=0.0
            )
        values = values.to(query.dtype)
        sums = tl.dot(
            weights.to(query.dtype), values, sums * fade[:, None], input_precision=PRECISION
        )
        peak = new_peak
    return peak, total, sums


@triton.jit(do_not_specialize=["table_stride"])
def _prefill_attention_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    tiles_ptr,
    cached_keys_ptr,
    cached_values_ptr,
    tables_ptr,
    out_ptr,
    token_stride,
    table_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    first = tl.load(tiles_ptr + 5 * tile)
    start = tl.load(tiles_ptr + 5 * tile + 1)
    end = tl.load(tiles_ptr + 5 * tile + 2)
    if first < end:
        row = tl.arange(0, ROWS)
        dim = tl.arange(0, DIM)
        token = first + row // GROUP
        head = kv_head * GROUP + row % GROUP
        exists = token < end
        if ROWS != TOKENS * GROUP:  # rows that only fill a power of two
            exists = exists & (row < TOKENS * GROUP)
        rows = token.to(tl.int64) * token_stride + head * DIM
        query = tl.load(query_ptr + rows[:, None] + dim[None, :], mask=exists[:, None], other=0.0)
        keys_ptr += kv_head * DIM
        values_ptr += kv_head * DIM
        peak = tl.full([ROWS], -float("inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, DIM], tl.float32)
        if PAGE > 0:
            cached = tl.load(tiles_ptr + 5 * tile + 3)
            slot = tl.load(tiles_ptr + 5 * tile + 4).to(tl.int64)
            table = tables_ptr + slot * table_stride
            cached_keys_ptr += kv_head * DIM
            cached_values_ptr += kv_head * DIM
            wide = as_multiplied(query, cached_keys_ptr.dtype.element_ty)
            whole = cached // BLOCK * BLOCK
            peak, total, sums = _attend_cached(
                wide, cached_keys_ptr, cached_values_ptr, table, 0, whole, peak, total, sums, scale,
                KV_HEADS * DIM, DIM, BLOCK, PAGE, True, PRECISION,
            )  # fmt: skip
            peak, total, sums = _attend_cached(
                wide, cached_keys_ptr, cached_values_ptr, table, whole, cached, peak, total, sums,
                scale, KV_HEADS * DIM, DIM, BLOCK, PAGE, False, PRECISION,
            )  # fmt: skip
        # Whole blocks that every row may see, then those with the rows' own tokens.
        middle = start + (first - start) // BLOCK * BLOCK
        peak, total, sums = _attend(
            query, keys_ptr, values_ptr, token_stride, start, middle, token, peak, total, sums,
            scale, DIM, BLOCK, False, PRECISION,
        )  # fmt: skip
        last = tl.minimum(first + TOKENS, end)
        peak, total, sums = _attend(
            query, keys_ptr, values_ptr, token_stride, middle, last, token, peak, total, sums,
            scale, DIM, BLOCK, True, PRECISION,
        )  # fmt: skip
        out = (sums / total[:, None]).to(out_ptr.dtype.element_ty)
        places = (token.to(tl.int64) * KV_HEADS * GROUP + head) * DIM
        tl.store(out_ptr + places[:, None] + dim[None, :], out, mask=exists[:, None])


def prefill_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tiles: Tensor,
    cache: tuple[Tensor, Tensor] | None = None,
    tables: Tensor | None = None,
    tile: tuple[int, int, int] = (64, 4, 2),
) -> Tensor:
    """Causal attention inside packed prompts: query [T, H, D], keys and values [T, K, D].

    Gives [T, H, D], of which tokens in no tile are not written. All three are parts of one
    [T, H + 2K, D]; tiles [n, 5] int32 as `prompt_tiles` makes them. With `cache`, keys and values
    of one layer [pages, tokens of a page, K, D], tokens attend to what is cached before their
    prompt too, in the pages that `tables` [slots, pages of a sequence] int64 names. `tile`: keys
    of one load, warps, loads under way.
    """
    num_tokens, heads, dim = query.shape
    kv_heads = key.shape[1]
    block, num_warps, num_stages = tile
    in_float32 = query.dtype == torch.float32
    out = torch.empty(num_tokens, heads, dim, dtype=query.dtype, device=query.device)
    cached_keys, cached_values = (key, value) if cache is None else cache
    has_cache = cache is not None and tables is not None
    _prefill_attention_kernel[(len(tiles), kv_heads)](
        query, key, value, tiles, cached_keys, cached_values, tables if has_cache else tiles, out,
        query.stride(0), tables.stride(0) if tables is not None else 0, LOG2_E / dim**0.5,
        KV_HEADS=kv_heads, GROUP=heads // kv_heads, DIM=dim,
        TOKENS=TILE_TOKENS, ROWS=TILE_TOKENS * triton.next_power_of_2(heads // kv_heads),
        BLOCK=block, PAGE=cached_keys.shape[1] if has_cache else 0,
        PRECISION="ieee" if in_float32 else "tf32", num_warps=num_warps, num_stages=num_stages,
    )  # fmt: skip
    return out
