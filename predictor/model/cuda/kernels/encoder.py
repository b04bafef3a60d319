"""Triton kernels of the audio tower, each with a plain PyTorch twin in `model/cuda/encoder.py`.

Between two matrix products the tower only moves memory: an activation, a bias or a norm that is a
pass of its own costs as much as the convolution it belongs to. Arithmetic is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

PIXELS, CHANNELS = 64, 128  # of one program of the first convolution
ELEMENTS = 2048  # of one program that activates


@triton.jit
def _gelu(x, IN_16_BIT: tl.constexpr):
    """The exact GELU; for 16 bit with an error function that is right to 2.5e-5.

    Abramowitz and Stegun 7.1.25: a third of the instructions, which bound the first convolution.
    """
    z = x * 0.7071067811865476
    if IN_16_BIT:
        t = 1.0 / (1.0 + 0.47047 * tl.abs(z))
        tail = t * (0.3480242 + t * (-0.0958798 + t * 0.7478556)) * tl.exp(-z * z)
        erf = tl.where(z < 0, tail - 1.0, 1.0 - tail)
    else:
        erf = tl.erf(z)
    return 0.5 * x * (1.0 + erf)


@triton.jit(do_not_specialize=["num_pixels"])
def _first_convolution_kernel(
    chunks_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_pixels,
    BINS: tl.constexpr,
    FRAMES: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    height: tl.constexpr = (BINS + 1) // 2
    width: tl.constexpr = (FRAMES + 1) // 2
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_pixel, is_channel = pixel < num_pixels, channel < NUM_CHANNELS
    chunk = pixel // (height * width)
    row = pixel // width % height
    column = pixel % width
    tap = tl.arange(0, 16)  # 9 taps, filled up to what a matrix unit multiplies
    source_bin = 2 * row[:, None] - 1 + (tap // 3)[None, :]
    source_frame = 2 * column[:, None] - 1 + (tap % 3)[None, :]
    inside = (source_bin >= 0) & (source_bin < BINS) & (source_frame >= 0)
    inside = inside & (source_frame < FRAMES) & (tap < 9)[None, :] & is_pixel[:, None]
    source = (chunk[:, None] * BINS + source_bin) * FRAMES + source_frame
    dtype = weight_ptr.dtype.element_ty
    taps = tl.load(chunks_ptr + source, mask=inside, other=0.0).to(dtype)  # [P, 16]
    weight = tl.load(
        weight_ptr + channel[None, :] * 9 + tap[:, None],
        mask=is_channel[None, :] & (tap < 9)[:, None],
        other=0.0,
    )  # [16, C]
    bias = tl.load(bias_ptr + channel, mask=is_channel, other=0.0).to(tl.float32)
    x = tl.dot(taps, weight, input_precision=PRECISION) + bias[None, :]
    x = _gelu(x.to(dtype).to(tl.float32), dtype.primitive_bitwidth == 16)
    place = pixel[:, None] * NUM_CHANNELS + channel[None, :]
    tl.store(out_ptr + place, x.to(dtype), mask=is_pixel[:, None] & is_channel[None, :])


def first_convolution(chunks: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of the 3 x 3 convolution with stride 2 over one input channel, padded by 1.

    chunks [N, bins, frames] contiguous, float32 or as the weight; weight [C, 1, 3, 3] ->
    [N, C, bins / 2, frames / 2], channels last.
    """
    num_chunks, bins, frames = chunks.shape
    num_channels = weight.shape[0]
    height, width = (bins + 1) // 2, (frames + 1) // 2
    out = weight.new_empty(num_chunks, height, width, num_channels)
    num_pixels = num_chunks * height * width
    grid = (triton.cdiv(num_pixels, PIXELS), triton.cdiv(num_channels, CHANNELS))
    _first_convolution_kernel[grid](
        chunks, weight, bias, out, num_pixels,
        BINS=bins, FRAMES=frames, NUM_CHANNELS=num_channels, BLOCK_P=PIXELS, BLOCK_C=CHANNELS,
        PRECISION="ieee" if weight.dtype.itemsize == 4 else "tf32", num_warps=4,
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


@triton.jit
def _bias_gelu_kernel(
    x_ptr,
    bias_ptr,
    out_ptr,
    num_elements,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    NUM_CHANNELS: tl.constexpr,
    TURN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = place < num_elements
    channel = place % NUM_CHANNELS
    x = tl.load(x_ptr + place, mask=exists, other=0.0)
    bias = tl.load(bias_ptr + channel, mask=exists, other=0.0).to(tl.float32)
    before = (x.to(tl.float32) + bias).to(x.dtype).to(tl.float32)
    out = _gelu(before, x.dtype.primitive_bitwidth == 16).to(x.dtype)
    if TURN:
        pixel = place // NUM_CHANNELS
        column = pixel % WIDTH
        row = pixel // WIDTH % HEIGHT
        chunk = pixel // (WIDTH * HEIGHT)
        place = ((chunk * WIDTH + column) * HEIGHT + row) * NUM_CHANNELS + channel
    tl.store(out_ptr + place, out, mask=exists)


def bias_gelu(x: Tensor, bias: Tensor, *, turn: bool = False) -> Tensor:
    """GELU of x + bias, where x [N, C, H, W] lies channels last: in place, as x.

    With `turn` as [N, W, H * C] instead: one row for each frame.
    """
    num_chunks, num_channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1)
    assert x.is_contiguous()
    out = x.new_empty(num_chunks, width, height * num_channels) if turn else x
    _bias_gelu_kernel[(triton.cdiv(x.numel(), ELEMENTS),)](
        x, bias, out, x.numel(),
        HEIGHT=height, WIDTH=width, NUM_CHANNELS=num_channels, TURN=turn, BLOCK=ELEMENTS,
        num_warps=8,
    )  # fmt: skip
    return out if turn else out.permute(0, 3, 1, 2)


@triton.jit
def _layer_norm_kernel(
    x_ptr,
    add_ptr,
    weight_ptr,
    bias_ptr,
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
    mean = tl.sum(x, axis=0) / width
    centred = tl.where(exists, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / width + eps)
    weight = tl.load(weight_ptr + columns, mask=exists, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=exists, other=0.0).to(tl.float32)
    normed = centred * scale * weight + bias
    tl.store(out_ptr + row + columns, normed.to(out_ptr.dtype.element_ty), mask=exists)


def add_layer_norm(
    x: Tensor, add: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """x += add, in place; then the layer norm of x. All [T, width], contiguous."""
    out = x.new_empty(x.shape)
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    _layer_norm_kernel[(x.shape[0],)](
        x, x if add is None else add, weight, bias, out, width, eps,
        HAS_ADD=add is not None, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out
