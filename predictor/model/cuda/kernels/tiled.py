"""Triton kernels of a decode step of some sequences: products of a few rows on the matrix units.

The weights are streamed once, as for one sequence (`small_batch.py`), but a multiplication for each
row would take longer than the stream; so each warp multiplies its share of a tile's columns on the
matrix units, and the shares are added up at the end. What lies between two products rides along:
a product that adds to the residual leaves the sum times the next norm's weight, and of each of its
rows the squares' sum; the next product multiplies that, and scales what comes out. Plain twins: the
operators that `model/cuda/decoder.py` runs one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.runtime import driver

from predictor.model.cuda.kernels.small_batch import begin, has_pdl, launch_options

MAX_ROWS = 16  # sequences of a step
WIDE = 2048  # columns; wider matrices are divided among more warps


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is divided: weight rows of a program, warps, columns of a warp at a time, how
    many such loads are under way, and columns of a warp that are asked for before the kernel ahead
    has ended."""

    rows: int
    warps: int
    columns: int
    stages: int
    first: int = 0


# As measured on an H200 with 8 rows, by what comes behind the product and the matrix's width: up to
# 1,024 columns, up to WIDE, and wider ones.
TILES = {
    "plain": (Tile(16, 4, 128, 3, 256), Tile(32, 4, 128, 4), Tile(32, 4, 128, 4)),
    "add": (Tile(16, 8, 128, 4, 128), Tile(16, 8, 128, 4, 256), Tile(16, 8, 128, 4)),
    "swiglu": (Tile(16, 4, 64, 4, 256), Tile(16, 4, 64, 4, 128), Tile(16, 4, 64, 4)),
}
ARCHS = (90, 100, 103)  # compute capabilities with 227 KB of shared memory
SUM_ROWS = 16  # of a program that adds: so many columns have a sum of squares of their own


def suits(weight: Tensor) -> bool:
    """Whether weights are of a type and on a device that the kernels are for.

    Tiles take up to 200 KB of a multiprocessor's shared memory, which not every device has; and
    what is not normed yet may be beyond the range of float16.
    """
    if knobs.runtime.interpret:
        return True
    is_bf16 = weight.is_cuda and weight.dtype == torch.bfloat16
    return is_bf16 and driver.active.get_current_target().arch in ARCHS


def tile_of(kind: str, width: int) -> Tile | None:
    """How a product with a matrix of so many columns is divided; None where nothing fits."""
    tile = TILES[kind][(width > 1024) + (width > WIDE)]
    share, over = divmod(width, tile.warps)
    if over or share % 16:
        return None
    first = tile.first if share >= tile.first else 0
    columns = tile.columns
    while columns > 16 and (share - first) % columns:
        columns //= 2
    return None if (share - first) % columns else replace(tile, columns=columns, first=first)


@triton.jit(do_not_specialize=["num_rows"])
def _tiled_kernel(
    x_ptr,
    power_ptr,
    weight_ptr,
    scale_ptr,
    out_ptr,
    gain_ptr,
    ready_ptr,
    sums_ptr,
    num_rows,
    eps,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUPS: tl.constexpr,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
    NORM: tl.constexpr,
    SWIGLU: tl.constexpr,
    ADD: tl.constexpr,
    SCALED: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    share: tl.constexpr = K // GROUPS
    first = tl.program_id(0) * BLOCK_N
    n = first + tl.arange(0, BLOCK_N)
    row = tl.arange(0, ROWS)
    is_row = row < num_rows
    group = (tl.arange(0, GROUPS) * share)[:, None]
    early = group + tl.arange(0, FIRST if FIRST else 16)[None, :]
    early_weights = weight_ptr + n.to(tl.int64)[None, :, None] * K + early[:, None, :]
    if FIRST:
        early_weight = tl.load(early_weights)
        early_up = early_weight
        if SWIGLU:
            early_up = tl.load(early_weights + N * K)
    begin(PDL)
    column = group + FIRST + tl.arange(0, BLOCK_K)[None, :]
    weights = weight_ptr + n.to(tl.int64)[None, :, None] * K + column[:, None, :]
    ups = weights + N * K
    x = x_ptr + row[None, None, :] * K + column[:, :, None]
    total = tl.zeros([GROUPS, BLOCK_N, ROWS], tl.float32)
    up_total = tl.zeros([GROUPS, BLOCK_N, ROWS], tl.float32)
    dtype = x_ptr.dtype.element_ty
    if FIRST:
        early_x = x_ptr + row[None, None, :] * K + early[:, :, None]
        early_part = tl.load(early_x, mask=is_row[None, None, :], other=0.0)
        total = tl.dot(early_weight.to(dtype), early_part, total, input_precision=PRECISION)
        if SWIGLU:
            up_total = tl.dot(early_up.to(dtype), early_part, up_total, input_precision=PRECISION)
    for start in tl.range(0, share - FIRST, BLOCK_K, num_stages=STAGES):
        part = tl.load(x + start, mask=is_row[None, None, :], other=0.0)
        weight = tl.load(weights + start).to(dtype)
        total = tl.dot(weight, part, total, input_precision=PRECISION)
        if SWIGLU:
            up = tl.load(ups + start).to(dtype)
            up_total = tl.dot(up, part, up_total, input_precision=PRECISION)
    out = tl.sum(total, axis=0)  # [BLOCK_N, ROWS]
    other = tl.sum(up_total, axis=0)
    if SCALED:
        out = out * tl.load(scale_ptr + n)[:, None]
        if SWIGLU:
            other = other * tl.load(scale_ptr + N + n)[:, None]
    if NORM:
        piece = row[:, None] * PARTS + tl.arange(0, PARTS)[None, :]
        power = tl.sum(tl.load(power_ptr + piece, mask=is_row[:, None], other=1.0), axis=1)
        norm = tl.rsqrt(power / K + eps)[None, :]
        out, other = out * norm, other * norm
    out = out.to(dtype).to(tl.float32)
    if SWIGLU:
        out = out / (1.0 + tl.exp(-out)) * other.to(dtype).to(tl.float32)
    place = row[None, :] * N + n[:, None]
    if ADD:
        out = out + tl.load(out_ptr + place, mask=is_row[None, :], other=0.0).to(tl.float32)
    rounded = out.to(dtype)
    tl.store(out_ptr + place, rounded, mask=is_row[None, :])
    if ADD:
        out = rounded.to(tl.float32)
        gain = tl.load(gain_ptr + n).to(tl.float32)[:, None]
        tl.store(ready_ptr + place, (out * gain).to(dtype), mask=is_row[None, :])
        at = sums_ptr + row * tl.num_programs(0) + tl.program_id(0)
        tl.store(at, tl.sum(out * out, axis=0), mask=is_row)


@triton.jit
def _ready_kernel(
    x_ptr,
    gain_ptr,
    ready_ptr,
    sums_ptr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    exists = column < WIDTH
    gain = tl.load(gain_ptr + column, mask=exists, other=0.0).to(tl.float32)
    begin(PDL, FIRST=True)
    x = tl.load(x_ptr + row * WIDTH + column, mask=exists, other=0.0)
    dtype = x.dtype
    x = x.to(tl.float32)
    tl.store(ready_ptr + row * WIDTH + column, (x * gain).to(dtype), mask=exists)
    part = tl.arange(0, PARTS)
    tl.store(sums_ptr + row * PARTS + part, tl.where(part == 0, tl.sum(x * x, axis=0), 0.0))


class Rows:
    """The rows between two layers [rows, width]: the residual sum, that times the weight of the
    norm which comes next, and parts of the sum of its squares."""

    def __init__(self, x: Tensor, norm: Tensor) -> None:
        num_rows, width = x.shape
        self.x = x
        self.ready = torch.empty_like(x)
        self.num_parts = width // SUM_ROWS
        self.power = x.new_empty(num_rows, self.num_parts, dtype=torch.float32)
        pdl = has_pdl()
        _ready_kernel[(num_rows,)](
            x, norm, self.ready, self.power,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), PARTS=self.num_parts, PDL=pdl,
            num_warps=4, **launch_options(pdl),
        )  # fmt: skip


def product(rows: Rows, matrix: tuple[Tensor, Tensor | None], eps: float) -> Tensor:
    """The norm of rows [B, K], times a matrix [N, K] with the factors of its rows [N] -> [B, N]"""
    return _launch("plain", rows.ready, matrix, rows, eps)


def gated(rows: Rows, matrix: tuple[Tensor, Tensor | None], eps: float) -> Tensor:
    """As `product`; the first half of the matrix's rows are gates -> silu(gate) * up [B, N / 2]."""
    return _launch("swiglu", rows.ready, matrix, rows, eps)


def add_product(x: Tensor, matrix: tuple[Tensor, Tensor | None], rows: Rows, norm: Tensor) -> None:
    """rows += x [B, K] times a matrix [N, K]; `norm` [N]: the weight of the norm after that."""
    _launch("add", x, matrix, rows, 0.0, norm)


def _launch(
    kind: str,
    x: Tensor,
    matrix: tuple[Tensor, Tensor | None],
    rows: Rows,
    eps: float,
    norm: Tensor | None = None,
) -> Tensor:
    weight, scale = matrix
    num_rows, width = x.shape
    adds, gates = kind == "add", kind == "swiglu"
    n = len(weight) // (2 if gates else 1)
    out = rows.x if adds else x.new_empty(num_rows, n)
    tile, pdl = tile_of(kind, width), has_pdl()
    assert tile is not None
    in_float32 = x.dtype == torch.float32
    _tiled_kernel[(n // tile.rows,)](
        x, rows.power, weight, weight if scale is None else scale, out,
        weight if norm is None else norm, rows.ready, rows.power, num_rows, eps,
        ROWS=8 if num_rows <= 8 else MAX_ROWS, N=n, K=width, BLOCK_N=tile.rows,
        BLOCK_K=tile.columns, GROUPS=tile.warps, FIRST=tile.first, PARTS=rows.num_parts,
        NORM=not adds, SWIGLU=gates, ADD=adds, SCALED=scale is not None,
        STAGES=1 if in_float32 else tile.stages, PRECISION="ieee" if in_float32 else "tf32",
        PDL=pdl, num_warps=tile.warps, **launch_options(pdl),
    )  # fmt: skip
    return out
