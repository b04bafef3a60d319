"""Triton kernels of a decode step of a few sequences, which is a stream of weights.

Each program asks for its rows of a matrix before it waits for the kernel ahead of it (programmatic
dependent launch), so that memory never rests between kernels. Norms, rotation, activation and
residual sums ride along in registers. Plain twins: the operators that
`model/cuda/decoder.py` runs one by one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.language.extra.cuda import (
    gdc_launch_dependents,
    gdc_wait,
)
from triton.runtime import driver

HEAD_ROWS = 128  # vocabulary rows of one program
ELEMENTS = 16384  # of the weights that one program holds in registers


@triton.jit
def begin(PDL: tl.constexpr, FIRST: tl.constexpr = False):
    """The next kernel may ask for its weights from now on; go on once the last one has ended.

    FIRST: a step's first kernel behind `enter` lets others start only then, see `step.py`.
    """
    if PDL:
        if FIRST:
            gdc_wait()
            gdc_launch_dependents()
        else:
            gdc_launch_dependents()
            gdc_wait()


@triton.jit
def _normed(x_ptr, norm_ptr, k, exists, width, eps):
    x = tl.load(x_ptr + k, mask=exists, other=0.0)
    return normed(x, tl.load(norm_ptr + k, mask=exists, other=0.0), width, eps)


@triton.jit
def normed(x, norm, width, eps):
    """x [K] of 16 bits or 32, and zeros behind `width`, as the RMS norm leaves it, in float32."""
    dtype = x.dtype
    x = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    return (x * scale * norm.to(tl.float32)).to(dtype).to(tl.float32)


@triton.jit
def _rows_kernel(
    x_ptr,
    norm_ptr,
    weight_ptr,
    scale_ptr,
    out_ptr,
    eps,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NORM: tl.constexpr,
    SWIGLU: tl.constexpr,
    ADD: tl.constexpr,
    SCALED: tl.constexpr,
    FIRST: tl.constexpr,
    PDL: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    is_row, is_column = n < N, k < K
    tile = n.to(tl.int64)[:, None] * K + k[None, :]
    inside = is_row[:, None] & is_column[None, :]
    weight = tl.load(weight_ptr + tile, mask=inside, other=0.0)
    up = weight
    if SWIGLU:
        up = tl.load(weight_ptr + N * K + tile, mask=inside, other=0.0)
    if NORM:
        norm = tl.load(norm_ptr + k, mask=is_column, other=0.0)
    begin(PDL, FIRST)
    for row in tl.static_range(ROWS):
        x = tl.load(x_ptr + row * K + k, mask=is_column, other=0.0)
        if NORM:
            x = normed(x, norm, K, eps)
        x = x.to(tl.float32)
        out = tl.sum(weight.to(tl.float32) * x[None, :], axis=1)
        if SCALED:
            out = out * tl.load(scale_ptr + n, mask=is_row, other=0.0)
        dtype = out_ptr.dtype.element_ty
        if SWIGLU:
            other = tl.sum(up.to(tl.float32) * x[None, :], axis=1)
            if SCALED:
                other = other * tl.load(scale_ptr + N + n, mask=is_row, other=0.0)
            gate = out.to(dtype).to(tl.float32)
            out = gate / (1.0 + tl.exp(-gate)) * other.to(dtype).to(tl.float32)
        place = out_ptr + row * N + n
        if ADD:
            before = tl.load(place, mask=is_row, other=0.0).to(tl.float32)
            out = before + out.to(dtype).to(tl.float32)
        tl.store(place, out.to(dtype), mask=is_row)


def rows_product(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    out: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    swiglu: bool = False,
    add: bool = False,
    first: bool = False,
) -> None:
    """out = x @ weight.T for x [1 to 4, K], weight [N, K]; all contiguous.

    With `norm` [K], of the RMS norm of x; with `swiglu` the first half of the weight's rows are
    gates and out is [rows, N / 2]; with `add` the product is added to what `out` holds. `scale` [N]
    are the factors of quantized rows. `first`: of a step, behind `step.enter`.
    """
    num_rows, width = x.shape
    n = out.shape[1]
    block_k = triton.next_power_of_2(width)
    is_wide = block_k > 4096
    elements = ELEMENTS * (2 if is_wide else 1) // (2 if swiglu else 1)
    block_n = max(1, elements // block_k)
    pdl = has_pdl()
    num_programs, num_warps = triton.cdiv(n, block_n), 8 if is_wide else 4
    _rows_kernel[(num_programs,)](
        x, x if norm is None else norm, weight, weight if scale is None else scale, out, eps,
        ROWS=num_rows, N=n, K=width, BLOCK_N=block_n, BLOCK_K=block_k, NORM=norm is not None,
        SWIGLU=swiglu, ADD=add, SCALED=scale is not None, FIRST=first, PDL=pdl,
        num_warps=num_warps, **launch_options(pdl),
    )  # fmt: skip


@triton.jit
def _head_kernel(
    x_ptr,
    norm_ptr,
    weight_ptr,
    best_ptr,
    peak_ptr,
    total_ptr,
    eps,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NUM_TILES: tl.constexpr,
    PDL: tl.constexpr,
):
    block = tl.program_id(0)
    row = tl.program_id(1)
    k = tl.arange(0, BLOCK_K)
    is_column = k < K
    begin(PDL)
    x = _normed(x_ptr + row * K, norm_ptr, k, is_column, K, eps)
    peak = -float("inf")
    best = 0
    total = 0.0
    for tile in range(NUM_TILES):
        n = (block * NUM_TILES + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row = n < N
        weight = tl.load(
            weight_ptr + n.to(tl.int64)[:, None] * K + k[None, :],
            mask=is_row[:, None] & is_column[None, :],
            other=0.0,
        )
        logits = tl.sum(weight.to(tl.float32) * x[None, :], axis=1).to(weight.dtype)
        logits = tl.where(is_row, logits.to(tl.float32), -float("inf"))
        new_peak = tl.maximum(peak, tl.max(logits, axis=0))
        ahead = tl.max(logits, axis=0) > peak
        at = (block * NUM_TILES + tile) * BLOCK_N + tl.argmax(logits, axis=0)
        best = tl.where(ahead, at, best)
        # Where nothing was seen yet both are minus infinity, whose difference is no number.
        fade = tl.where(peak == new_peak, 1.0, tl.exp(peak - new_peak))
        parts = tl.where(is_row, tl.exp(logits - new_peak), 0.0)
        total = total * fade + tl.sum(parts, axis=0)
        peak = new_peak
    part = row * tl.num_programs(0) + block
    tl.store(best_ptr + part, best)
    tl.store(peak_ptr + part, peak)
    tl.store(total_ptr + part, total)


def head_parts(
    x: Tensor, norm: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each stretch of the vocabulary its likeliest token, that one's logit, and the sum of
    exponentials beside it: [rows, stretches] each. x [rows, hidden] before the final norm."""
    num_rows, width = x.shape
    vocab_size = weight.shape[0]
    block_k = triton.next_power_of_2(width)
    block_n = max(1, 16384 // block_k)
    num_tiles = max(1, HEAD_ROWS // block_n)
    num_blocks = triton.cdiv(vocab_size, block_n * num_tiles)
    best = torch.empty(num_rows, num_blocks, dtype=torch.int32, device=x.device)
    peak = torch.empty(num_rows, num_blocks, dtype=torch.float32, device=x.device)
    total = torch.empty_like(peak)
    pdl = has_pdl()
    _head_kernel[(num_blocks, num_rows)](
        x, norm, weight, best, peak, total, eps,
        N=vocab_size, K=width, BLOCK_N=block_n, BLOCK_K=block_k, NUM_TILES=num_tiles, PDL=pdl,
        num_warps=4, **launch_options(pdl),
    )  # fmt: skip
    return best, peak, total


def has_pdl() -> bool:
    """Whether the device starts a kernel before the one ahead of it has ended: from sm_90 on."""
    return not knobs.runtime.interpret and driver.active.get_current_target().arch >= 90


def launch_options(pdl: bool) -> dict[str, bool]:
    return {"launch_pdl": True} if pdl else {}
