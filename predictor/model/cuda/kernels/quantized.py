"""Triton kernels of the quantized layers, each with a plain PyTorch twin in `quantized_cuda.py`.

Rows are quantized one by one, so what shares a batch never changes a row's scale. The 8-bit
integer product reads one byte a weight and widens it in registers, where the integers are exact.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FP8_MAX = 448.0  # the largest float8_e4m3fn
LEAST_PEAK = 1e-30  # of a row or channel: a row of zeros has a scale, too
# Programs that keep 132 multiprocessors busy; with fewer, the inner dimension is divided.
FULL_DEVICE = 256
MAX_SPLITS = 8
DEQUANTIZE_BLOCK = 4096


@triton.jit
def _quantize_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    x_stride,
    width,
    MAX: tl.constexpr,
    LEAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    exists = columns < width
    x = tl.load(x_ptr + row * x_stride + columns, mask=exists, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0), LEAST) * (1.0 / MAX)
    # No clamp: rounding takes what is a hair above MAX back to it, and NaN must stay NaN.
    values = (x * tl.div_rn(1.0, scale)).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * width + columns, values, mask=exists)
    tl.store(scale_ptr + row, scale)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[M, K], elements of a row adjoining -> float8_e4m3fn [M, K] and the rows' scales [M, 1]."""
    num_rows, width = x.shape
    out = torch.empty(num_rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(num_rows, 1, dtype=torch.float32, device=x.device)
    if num_rows:
        block = triton.next_power_of_2(width)
        _quantize_kernel[(num_rows,)](
            x, out, scale, x.stride(0), width,
            MAX=FP8_MAX, LEAST=LEAST_PEAK, BLOCK=block, num_warps=4 if block <= 2048 else 8,
        )  # fmt: skip
    return out, scale


@triton.jit
def _norm_quantize_kernel(
    x_ptr,
    add_ptr,
    weight_ptr,
    out_ptr,
    scale_ptr,
    width,
    eps,
    HAS_ADD: tl.constexpr,
    MAX: tl.constexpr,
    LEAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    exists = columns < width
    offsets = row * width + columns
    x = tl.load(x_ptr + offsets, mask=exists, other=0.0)
    dtype = x.dtype
    if HAS_ADD:
        add = tl.load(add_ptr + offsets, mask=exists, other=0.0)
        x = (x.to(tl.float32) + add.to(tl.float32)).to(dtype)
        tl.store(x_ptr + offsets, x, mask=exists)
    x = x.to(tl.float32)
    size = tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    weight = tl.load(weight_ptr + columns, mask=exists, other=0.0).to(tl.float32)
    normed = (x * size * weight).to(dtype).to(tl.float32)  # as the two kernels round it
    scale = tl.maximum(tl.max(tl.abs(normed), axis=0), LEAST) * (1.0 / MAX)
    values = (normed * tl.div_rn(1.0, scale)).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + offsets, values, mask=exists)
    tl.store(scale_ptr + row, scale)


def add_rms_norm_quantized(
    x: Tensor, add: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`kernels.add_rms_norm`, then `quantize_rows`, in one pass. All [T, width], contiguous."""
    num_rows, width = x.shape
    out = torch.empty(num_rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(num_rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _norm_quantize_kernel[(num_rows,)](
        x, x if add is None else add, weight, out, scale, width, eps,
        HAS_ADD=add is not None, MAX=FP8_MAX, LEAST=LEAST_PEAK, BLOCK=block,
        num_warps=4 if block <= 2048 else 8,
    )  # fmt: skip
    return out, scale


@triton.jit
def _swiglu_quantize_kernel(
    gate_up_ptr,
    out_ptr,
    scale_ptr,
    width,
    MAX: tl.constexpr,
    LEAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    exists = columns < width
    gate_row = gate_up_ptr + row * 2 * width
    raw = tl.load(gate_row + columns, mask=exists, other=0.0)
    gate = raw.to(tl.float32)
    up = tl.load(gate_row + width + columns, mask=exists, other=0.0).to(tl.float32)
    product = (gate / (1.0 + tl.exp(-gate)) * up).to(raw.dtype).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(product), axis=0), LEAST) * (1.0 / MAX)
    values = (product * tl.div_rn(1.0, scale)).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * width + columns, values, mask=exists)
    tl.store(scale_ptr + row, scale)


def swiglu_quantized(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """`kernels.swiglu`, then `quantize_rows`, in one pass. [T, 2 * width], contiguous."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(num_rows, width, dtype=torch.float8_e4m3fn, device=gate_up.device)
    scale = torch.empty(num_rows, 1, dtype=torch.float32, device=gate_up.device)
    block = triton.next_power_of_2(width)
    _swiglu_quantize_kernel[(num_rows,)](
        gate_up, out, scale, width,
        MAX=FP8_MAX, LEAST=LEAST_PEAK, BLOCK=block, num_warps=4 if block <= 2048 else 8,
    )  # fmt: skip
    return out, scale


# Compiled once for each tile: prompts have any number of rows, and each shape its splits.
@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def _int8_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    out_ptr,
    parts_ptr,
    counts_ptr,
    num_rows,
    num_channels,
    width,
    x_stride,
    share,
    part_size,
    num_splits,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Channels are the long side of the product: 64 of them make a tile of the matrix unit even
    # where there are few rows, and the widened weights go to it straight from registers.
    split = tl.program_id(2)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    has_channel = channel < num_channels
    has_row = row < num_rows
    inner = tl.arange(0, BLOCK)
    weights = weight_ptr + channel.to(tl.int64)[:, None] * width + inner[None, :]
    xs = x_ptr + row.to(tl.int64)[None, :] * x_stride + inner[:, None]
    sums = tl.zeros([CHANNELS, ROWS], tl.float32)
    first = split * share
    last = tl.minimum(first + share, width)
    tl.assume(last > first)  # else the compiler makes the products wait for each other
    for start in range(first, last, BLOCK):
        if IS_EVEN:
            weight = tl.load(weights + start, mask=has_channel[:, None], other=0)
            x = tl.load(xs + start, mask=has_row[None, :], other=0.0)
        else:
            exists = start + inner < last
            weight = tl.load(weights + start, mask=has_channel[:, None] & exists[None, :], other=0)
            x = tl.load(xs + start, mask=has_row[None, :] & exists[:, None], other=0.0)
        sums = tl.dot(weight.to(x.dtype), x, sums, input_precision=PRECISION)
    offsets = row.to(tl.int64)[None, :] * num_channels + channel[:, None]
    is_ours = has_channel[:, None] & has_row[None, :]
    scale = tl.load(scale_ptr + channel, mask=has_channel, other=0.0)[:, None]
    if num_splits == 1:
        tl.store(out_ptr + offsets, (sums * scale).to(out_ptr.dtype.element_ty), mask=is_ours)
    else:
        # The last program of a tile to arrive adds the parts up, always in the same order.
        tl.store(parts_ptr + split * part_size + offsets, sums, mask=is_ours)
        tl.debug_barrier()
        tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        if tl.atomic_add(counts_ptr + tile, 1, sem="acq_rel") == num_splits - 1:
            total = tl.zeros([CHANNELS, ROWS], tl.float32)
            for i in range(num_splits):
                part = parts_ptr + i * part_size + offsets
                total += tl.load(part, mask=is_ours, other=0.0, cache_modifier=".cg")
            tl.store(out_ptr + offsets, (total * scale).to(out_ptr.dtype.element_ty), mask=is_ours)
            tl.store(counts_ptr + tile, 0)


def int8_tile(num_rows: int) -> tuple[int, int, int, int, int]:
    """Rows, channels and inner width of one product, warps, and loads under way."""
    if num_rows <= 16:
        return 16, 64, 128, 4, 5
    if num_rows <= 32:
        return 32, 64, 128, 4, 4
    if num_rows <= 64:
        return 64, 64, 128, 4, 4
    return 128, 128, 64, 8, 4


def int8_splits(num_tiles: int, num_blocks: int) -> int:
    """Among how many programs the inner dimension of each tile is divided, two blocks at least."""
    splits = 1
    while splits < MAX_SPLITS and num_tiles * splits < FULL_DEVICE and num_blocks >= 4 * splits:
        splits *= 2
    share = triton.cdiv(num_blocks, splits)
    return int(triton.cdiv(num_blocks, share))  # so that none has nothing to do


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, counts: Tensor) -> Tensor:
    """x [M, K] times int8 weight [N, K], contiguous, scaled by channel [N] -> [M, N].

    `counts`, FULL_DEVICE int32 zeros, are zeros again when the product is made; no other stream
    may use them meanwhile.
    """
    (num_rows, width), num_channels = x.shape, weight.shape[0]
    out = x.new_empty(num_rows, num_channels)
    if not num_rows:
        return out
    rows, channels, block, num_warps, num_stages = int8_tile(num_rows)
    grid = (triton.cdiv(num_channels, channels), triton.cdiv(num_rows, rows))
    num_blocks = triton.cdiv(width, block)
    splits = int8_splits(grid[0] * grid[1], num_blocks)
    share = triton.cdiv(num_blocks, splits) * block
    parts = scale  # not written to
    if splits > 1:
        parts = x.new_empty(splits, num_rows, num_channels, dtype=torch.float32)
    in_float32 = x.dtype == torch.float32
    _int8_kernel[(*grid, splits)](
        x, weight, scale, out, parts, counts, num_rows, num_channels, width, x.stride(0), share,
        num_rows * num_channels, splits,
        ROWS=rows, CHANNELS=channels, BLOCK=block,
        IS_EVEN=width % block == 0, PRECISION="ieee" if in_float32 else "tf32",
        num_warps=num_warps, num_stages=1 if in_float32 else num_stages,
    )  # fmt: skip
    return out


@triton.jit
def _dequantize_kernel(
    weight_ptr,
    scale_ptr,
    out_ptr,
    width,
    BLOCK: tl.constexpr,
):
    channel = tl.program_id(0)
    scale = tl.load(scale_ptr + channel)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offsets = channel.to(tl.int64) * width + columns
    weight = tl.load(weight_ptr + offsets, mask=columns < width, other=0).to(tl.float32)
    out = (weight * scale).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + offsets, out, mask=columns < width)


def dequantize(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 [N, K], contiguous, times the channels' scales [N], rounded to `dtype`."""
    num_channels, width = weight.shape
    out = torch.empty(num_channels, width, dtype=dtype, device=weight.device)
    block = min(DEQUANTIZE_BLOCK, triton.next_power_of_2(width))
    _dequantize_kernel[(num_channels, triton.cdiv(width, block))](
        weight, scale, out, width, BLOCK=block, num_warps=4
    )
    return out
