"""Triton kernels of the language model, each with a plain PyTorch twin in `model/cuda/decoder.py`.

All of them are bound by memory: what counts is that a tensor passes once where the plain
operators pass it three to six times. Arithmetic is float32, rounded once at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

HEAD_BLOCK = 8192  # logits that one program reduces
FP8_MAX = tl.constexpr(448.0)  # the largest float8e4nv


@triton.jit
def _norm_kernel(
    x_ptr,
    add_ptr,
    weight_ptr,
    out_ptr,
    width,
    eps,
    HAS_ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    exists = columns < width
    x = tl.load(x_ptr + row + columns, mask=exists, other=0.0)
    if HAS_ADD:
        add = tl.load(add_ptr + row + columns, mask=exists, other=0.0)
        x = (x.to(tl.float32) + add.to(tl.float32)).to(x.dtype)
        tl.store(x_ptr + row + columns, x, mask=exists)
    x = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    weight = tl.load(weight_ptr + columns, mask=exists, other=0.0).to(tl.float32)
    normed = x * scale * weight
    tl.store(out_ptr + row + columns, normed.to(out_ptr.dtype.element_ty), mask=exists)


def add_rms_norm(x: Tensor, add: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """x += add, in place; then the RMS norm of x. All [T, width], contiguous; weight [width]."""
    out = torch.empty_like(x)
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    _norm_kernel[(x.shape[0],)](
        x, x if add is None else add, weight, out, width, eps,
        HAS_ADD=add is not None, BLOCK=block, num_warps=4 if block <= 2048 else 8,
    )  # fmt: skip
    return out


@triton.jit
def as_stored(values, dtype: tl.constexpr):
    """What a cache of `dtype` holds; 8 bits hold what is beyond their range as the end of it."""
    if dtype == tl.float8e4nv:
        values = values.to(tl.float32)
        values = tl.clamp(values, -FP8_MAX, FP8_MAX, propagate_nan=tl.PropagateNan.ALL)
    return values.to(dtype)


@triton.jit
def as_multiplied(query, dtype: tl.constexpr):
    """The query as it is multiplied with a cache of `dtype`: 8 bits are widened to float16, two
    values in one instruction on compute capability 8.9 and 9.0, where bfloat16 takes several."""
    if dtype == tl.float8e4nv:
        query = query.to(tl.float16)
    return query


@triton.jit
def places_of(table, start, end, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """Places in the cache of BLOCK tokens from `start` on, a multiple of BLOCK, those before `end`;
    of a sequence whose pages `table` points to."""
    token = start + tl.arange(0, BLOCK)
    if PAGE % BLOCK == 0:  # all in one page
        page = tl.load(table + start // PAGE, mask=start < end, other=0)
        places = page * PAGE + start % PAGE + tl.arange(0, BLOCK)
    else:
        pages = tl.load(table + token // PAGE, mask=token < end, other=0)
        places = pages * PAGE + token % PAGE
    return places


@triton.jit
def _rope_kernel(
    qkv_ptr,
    norm_ptr,
    cos_ptr,
    sin_ptr,
    positions_ptr,
    places_ptr,
    key_cache_ptr,
    value_cache_ptr,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(positions_ptr + token)
    place = tl.load(places_ptr + token)
    head = tl.arange(0, BLOCK_H)[:, None]
    half = tl.arange(0, HALF)[None, :]
    offsets = head * (2 * HALF) + half
    exists = head < HEADS + 2 * KV_HEADS
    row = qkv_ptr + token * ((HEADS + 2 * KV_HEADS) * 2 * HALF)
    raw_low = tl.load(row + offsets, mask=exists, other=0.0)
    raw_high = tl.load(row + offsets + HALF, mask=exists, other=0.0)
    low, high = raw_low.to(tl.float32), raw_high.to(tl.float32)
    power = tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)
    scale = tl.rsqrt(power / (2 * HALF) + eps)[:, None]
    rotated = head < HEADS + KV_HEADS
    norm_low = tl.load(norm_ptr + offsets, mask=rotated, other=0.0).to(tl.float32)
    norm_high = tl.load(norm_ptr + offsets + HALF, mask=rotated, other=0.0).to(tl.float32)
    low, high = low * scale * norm_low, high * scale * norm_high
    cos = tl.load(cos_ptr + position * HALF + half).to(tl.float32)
    sin = tl.load(sin_ptr + position * HALF + half).to(tl.float32)
    new_low = (low * cos - high * sin).to(raw_low.dtype)
    new_high = (high * cos + low * sin).to(raw_low.dtype)
    tl.store(row + offsets, new_low, mask=rotated)
    tl.store(row + offsets + HALF, new_high, mask=rotated)
    place_row = place * (KV_HEADS * 2 * HALF)
    is_key = (head >= HEADS) & rotated
    key_offsets = place_row + offsets - HEADS * (2 * HALF)
    dtype: tl.constexpr = key_cache_ptr.dtype.element_ty
    tl.store(key_cache_ptr + key_offsets, as_stored(new_low, dtype), mask=is_key)
    tl.store(key_cache_ptr + key_offsets + HALF, as_stored(new_high, dtype), mask=is_key)
    is_value = (head >= HEADS + KV_HEADS) & exists
    value_offsets = place_row + offsets - (HEADS + KV_HEADS) * (2 * HALF)
    tl.store(value_cache_ptr + value_offsets, as_stored(raw_low, dtype), mask=is_value)
    tl.store(value_cache_ptr + value_offsets + HALF, as_stored(raw_high, dtype), mask=is_value)


def norm_rope_write(
    qkv: Tensor,
    norm: Tensor,
    table: tuple[Tensor, Tensor],
    positions: Tensor,
    places: Tensor,
    cache: tuple[Tensor, Tensor],
    eps: float,
) -> None:
    """Norm and rotate the query and key heads of `qkv` in place; write keys and values away.

    qkv [T, H + 2K, D] contiguous; norm [H + K, D]; table: cosines and sines [positions, D / 2];
    positions and places [T]; cache: keys and values of one layer, [places, K, D] each.
    """
    keys, values = cache
    num_tokens, all_heads, dim = qkv.shape
    kv_heads = keys.shape[1]
    _rope_kernel[(num_tokens,)](
        qkv, norm, *table, positions, places, keys, values, eps,
        HEADS=all_heads - 2 * kv_heads, KV_HEADS=kv_heads, HALF=dim // 2,
        BLOCK_H=triton.next_power_of_2(all_heads), num_warps=4,
    )  # fmt: skip


@triton.jit
def _swiglu_kernel(gate_up_ptr, out_ptr, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = columns < width
    gate_row = gate_up_ptr + row * 2 * width
    gate = tl.load(gate_row + columns, mask=exists, other=0.0).to(tl.float32)
    up = tl.load(gate_row + width + columns, mask=exists, other=0.0).to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), mask=exists)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up: [T, 2 * width] contiguous -> [T, width]"""
    num_tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(num_tokens, width)
    block = min(1024, triton.next_power_of_2(width))
    _swiglu_kernel[(num_tokens, triton.cdiv(width, block))](
        gate_up, out, width, BLOCK=block, num_warps=4
    )
    return out


@triton.jit
def _head_kernel(
    logits_ptr,
    best_ptr,
    peak_ptr,
    total_ptr,
    vocab_size,
    NUM_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    logits = tl.load(
        logits_ptr + row * vocab_size + column, mask=column < vocab_size, other=-float("inf")
    ).to(tl.float32)
    peak = tl.max(logits, axis=0)
    part = row * NUM_BLOCKS + block
    tl.store(best_ptr + part, block * BLOCK + tl.argmax(logits, axis=0))
    tl.store(peak_ptr + part, peak)
    tl.store(total_ptr + part, tl.sum(tl.exp(logits - peak), axis=0))


@triton.jit
def chosen(best_ptr, peak_ptr, total_ptr, row, NUM_BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """The likeliest token of a row, the first of equals, and its log-probability, from the parts of
    the vocabulary's stretches."""
    block = tl.arange(0, BLOCK)
    part = row * NUM_BLOCKS + block
    exists = block < NUM_BLOCKS
    peaks = tl.load(peak_ptr + part, mask=exists, other=-float("inf"))
    totals = tl.load(total_ptr + part, mask=exists, other=0.0)
    peak = tl.max(peaks, axis=0)
    total = tl.sum(totals * tl.exp(peaks - peak), axis=0)
    token = tl.load(best_ptr + row * NUM_BLOCKS + tl.argmax(peaks, axis=0))
    # The likeliest token's own term is 1, so this is never above 0.
    return token, -tl.log(total)


@triton.jit
def _choose_kernel(
    best_ptr,
    peak_ptr,
    total_ptr,
    tokens_ptr,
    logprobs_ptr,
    NUM_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    token, logprob = chosen(best_ptr, peak_ptr, total_ptr, row, NUM_BLOCKS, BLOCK)
    tl.store(tokens_ptr + row, token.to(tl.int64))
    tl.store(logprobs_ptr + row, logprob)


def choose(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row, the first of equals, and its log-probability.

    logits [B, vocabulary] contiguous -> [B] int64, [B] float32; a NaN makes the latter NaN.
    """
    return choose_parts(*logits_parts(logits))


def logits_parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `choose_parts` takes, of logits [B, vocabulary], contiguous."""
    num_rows, vocab_size = logits.shape
    num_blocks = triton.cdiv(vocab_size, HEAD_BLOCK)
    best = torch.empty(num_rows, num_blocks, dtype=torch.int32, device=logits.device)
    peak = torch.empty(num_rows, num_blocks, dtype=torch.float32, device=logits.device)
    total = torch.empty_like(peak)
    _head_kernel[(num_rows, num_blocks)](
        logits, best, peak, total, vocab_size,
        NUM_BLOCKS=num_blocks, BLOCK=HEAD_BLOCK, num_warps=8,
    )  # fmt: skip
    return best, peak, total


def choose_parts(best: Tensor, peak: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """As `choose`, from stretches of the vocabulary [B, stretches]: the likeliest token of each,
    its logit, and the sum of exponentials beside it."""
    num_rows, num_blocks = best.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=best.device)
    logprobs = torch.empty(num_rows, dtype=torch.float32, device=best.device)
    block = triton.next_power_of_2(num_blocks)
    _choose_kernel[(num_rows,)](
        best, peak, total, tokens, logprobs,
        NUM_BLOCKS=num_blocks, BLOCK=block, num_warps=1 if block <= 64 else 4,
    )  # fmt: skip
    return tokens, logprobs
