"""Triton kernels of a head that reads rows of 8 bits and finds the token that 16 bits give.

The 8-bit rows say a range for each logit. Only rows whose range reaches the highest lower end, the
candidates, are read in 16 bits. Plain twin: `small_batch.head_parts`; why the ranges are right is
said in `model/cuda/small_head.py`.

`known` of an input: its step, its length and its error; of all rows: scale, error, length. Lengths
and errors are upper bounds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from predictor.model.cuda.kernels.small_batch import _normed, begin, has_pdl, launch_options

CHUNK = 128  # words of four weights that a warp reads at a time, 16 bytes a lane
STRETCH = 128  # vocabulary rows of one program
TILE_WORDS = 8192  # that one program asks for at a time
WEIGHT_STEPS = 127  # the largest 8-bit weight
INPUT_STEPS = 127 * 256  # the largest input: two signed bytes
LEAST_PEAK = tl.constexpr(1e-30)  # of a row or input: one of zeros has a scale, too
LEAST_ERROR = tl.constexpr(1e-17)  # squares of less are nothing in float32


@triton.jit
def _length(x, axis: tl.constexpr, ROUNDING: tl.constexpr):
    """An upper bound: the sum is right but for a share, and what vanishes in a square."""
    return tl.sqrt(tl.sum(x * x, axis=axis)) * ROUNDING + LEAST_ERROR


@triton.jit
def _steps(x, step, MOST: tl.constexpr):
    return tl.minimum(tl.maximum(tl.floor(x / step + 0.5), -MOST), MOST)


@triton.jit
def _quantize_kernel(
    weight_ptr,
    words_ptr,
    known_ptr,
    n_rows,
    K: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEPS: tl.constexpr,
    SUMS: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, BLOCK_K)
    inside = (n < n_rows)[:, None] & (k < K)[None, :]
    place = n.to(tl.int64)[:, None]
    weight = tl.load(weight_ptr + place * K + k[None, :], mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(weight), axis=1), LEAST_PEAK) / STEPS
    steps = _steps(weight, scale[:, None], STEPS)
    near = steps * scale[:, None]
    length, error = _length(near, 1, ROUNDING), _length(weight - near, 1, ROUNDING)
    tl.store(words_ptr + place * BYTES + k[None, :], steps.to(tl.int8), mask=(k < BYTES)[None, :])
    all_rows = tl.num_programs(0) * ROWS
    tl.store(known_ptr + n, scale)
    tl.store(known_ptr + all_rows + n, error + SUMS * (length + error))
    tl.store(known_ptr + 2 * all_rows + n, length)


@triton.jit
def _input_kernel(
    x_ptr,
    norm_ptr,
    normed_ptr,
    words_ptr,
    known_ptr,
    eps,
    K: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEPS: tl.constexpr,
    ROUNDING: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)
    begin(PDL)
    x = tl.where(k < K, _normed(x_ptr + row * K, norm_ptr, k, k < K, K, eps), 0.0)
    tl.store(normed_ptr + row * K + k, x.to(normed_ptr.dtype.element_ty), mask=k < K)
    length = _length(x, 0, ROUNDING)
    is_finite = length < float("inf")  # and is a number
    x = tl.where(is_finite, x, 0.0)
    step = tl.maximum(tl.max(tl.abs(x), axis=0), LEAST_PEAK) / STEPS
    steps = _steps(x, step, STEPS)
    known = known_ptr + row * 3
    tl.store(known, tl.where(is_finite, step, float("nan")))
    tl.store(known + 1, length)
    tl.store(known + 2, _length(x - steps * step, 0, ROUNDING))
    # Two signed bytes, 256 * high + low; four of each kind are a word.
    steps = steps.to(tl.int32)
    high = (steps + 128) >> 8
    low = steps - (high << 8)
    shift = (8 * tl.arange(0, 4))[None, :]
    high = tl.sum((tl.reshape(high, [BLOCK_K // 4, 4]) & 255) << shift, axis=1)
    low = tl.sum((tl.reshape(low, [BLOCK_K // 4, 4]) & 255) << shift, axis=1)
    word = tl.arange(0, BLOCK_K // 4)
    words = words_ptr + row * 2 * WORDS + word
    tl.store(words, high, mask=word < WORDS)
    tl.store(words + WORDS, low, mask=word < WORDS)


@triton.jit
def _add_dot4(a, b, total, HARDWARE: tl.constexpr):
    """total + the products of words of four signed bytes each."""
    if HARDWARE:
        total = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, total], tl.int32, True, 1
        )
    else:  # the interpreter has no assembler
        total += (a >> 24) * (b >> 24) + ((a << 8) >> 24) * ((b << 8) >> 24)
        total += ((a << 16) >> 24) * ((b << 16) >> 24) + ((a << 24) >> 24) * ((b << 24) >> 24)
    return total


@triton.jit
def _tile(words_ptr, first, ROWS: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows from `first` on: of each chunk [rows, words]. A warp reads a chunk of a row at once."""
    start = words_ptr + first.to(tl.int64) * (CHUNKS * WIDTH)
    place = tl.arange(0, ROWS)[:, None] * (CHUNKS * WIDTH) + tl.arange(0, WIDTH)[None, :]
    tile = ()
    for chunk in tl.static_range(CHUNKS):
        tile += (tl.load(start + chunk * WIDTH + place),)  # type: ignore[assignment]
    return tile


@triton.jit
def _range(sums_ptr, input_ptr, known_ptr, n, n_rows, all_rows):
    """What the logits of rows n are about, and how far off at most."""
    about = tl.load(known_ptr + n) * tl.load(input_ptr) * tl.load(sums_ptr + n)
    off = tl.load(input_ptr + 1) * tl.load(known_ptr + all_rows + n)
    off += tl.load(input_ptr + 2) * tl.load(known_ptr + 2 * all_rows + n)
    return tl.where(n < n_rows, about, -float("inf")), off


@triton.jit
def _stream_kernel(
    input_words_ptr,
    input_ptr,
    words_ptr,
    known_ptr,
    sums_ptr,
    best_ptr,
    parts_ptr,
    n_rows,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    N: tl.constexpr,
    HARDWARE: tl.constexpr,
    PDL: tl.constexpr,
):
    stretch, num_stretches = tl.program_id(0), tl.num_programs(0)
    first = stretch * N
    tile = _tile(words_ptr, first, BLOCK_N, CHUNKS, WIDTH)
    begin(PDL)
    inputs = ()  # of each input the chunks of high bytes, and those of low ones
    for part in tl.static_range(ROWS * 2 * CHUNKS):
        word = part * WIDTH + tl.arange(0, WIDTH)
        inputs += (tl.load(input_words_ptr + word)[None, :],)  # type: ignore[assignment]
    for start in range(0, N, BLOCK_N):
        # The next tile is asked for before this one is used; the last one a second time.
        later = tl.minimum(start + BLOCK_N, N - BLOCK_N)
        after = _tile(words_ptr, first + later, BLOCK_N, CHUNKS, WIDTH)
        n = first + start + tl.arange(0, BLOCK_N)
        for row in tl.static_range(ROWS):
            high = tl.zeros([BLOCK_N, WIDTH], tl.int32)
            low = tl.zeros([BLOCK_N, WIDTH], tl.int32)
            for i in tl.static_range(CHUNKS):
                high = _add_dot4(tile[i], inputs[2 * CHUNKS * row + i], high, HARDWARE)
                low = _add_dot4(tile[i], inputs[2 * CHUNKS * row + CHUNKS + i], low, HARDWARE)
            sums = tl.sum((high << 8) + low, axis=1).to(tl.float32)
            tl.store(sums_ptr + row * num_stretches * N + n, sums)
        tile = after
    tl.debug_barrier()  # all warps read what each has written
    n = first + tl.arange(0, N)
    for row in tl.static_range(ROWS):
        all_rows, step = num_stretches * N, ROWS * num_stretches
        sums = sums_ptr + row * all_rows
        about, off = _range(sums, input_ptr + row * 3, known_ptr, n, n_rows, all_rows)
        peak = tl.max(about, axis=0)
        peak = tl.where(peak == peak, peak, -float("inf"))  # what is no number is in the total
        total = tl.sum(tl.where(n < n_rows, tl.exp(about - peak), 0.0), axis=0)
        part = row * num_stretches + stretch
        tl.store(best_ptr + part, first)
        tl.store(parts_ptr + part, peak)
        tl.store(parts_ptr + step + part, total)
        tl.store(parts_ptr + 2 * step + part, tl.max(about - off, axis=0))
        tl.store(parts_ptr + 3 * step + part, tl.max(about + off, axis=0))


@triton.jit
def _rounded(x, like):
    return x.to(like.dtype.element_ty).to(tl.float32)


@triton.jit
def _candidates_kernel(
    x_ptr,
    weight_ptr,
    input_ptr,
    known_ptr,
    sums_ptr,
    best_ptr,
    parts_ptr,
    n_rows,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    stretch, num_stretches, row = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    part, step = row * num_stretches + stretch, tl.num_programs(1) * num_stretches
    begin(PDL)
    other = tl.arange(0, BLOCK)
    lows = parts_ptr + 2 * step + row * num_stretches + other
    lows = tl.load(lows, mask=other < num_stretches, other=-float("inf"))
    # Compared as logits are, rounded, which keeps their order. False where one is no number.
    least = _rounded(tl.max(lows, axis=0), weight_ptr)
    if _rounded(tl.load(parts_ptr + 3 * step + part), weight_ptr) >= least:
        n = stretch * N + tl.arange(0, N)
        all_rows = num_stretches * N
        sums = sums_ptr + row * all_rows
        about, off = _range(sums, input_ptr + row * 3, known_ptr, n, n_rows, all_rows)
        is_left = (n < n_rows) & (_rounded(about + off, weight_ptr) >= least)
        rest = tl.where(is_left, -float("inf"), about)
        k = tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
        best, peak, total = stretch * N, -float("inf"), 0.0
        count = tl.sum(is_left.to(tl.int32), axis=0)
        for _ in range(count):
            at = tl.min(tl.where(is_left, n, all_rows), axis=0)  # the first that is left
            is_left = is_left & (n != at)
            place = at.to(tl.int64) * K + k[None, :]
            weight = tl.load(weight_ptr + place, mask=(k < K)[None, :], other=0.0)
            # As the twin sums and rounds.
            logit = tl.sum(weight.to(tl.float32) * x, axis=1)
            logit = tl.max(_rounded(logit, weight_ptr), axis=0)
            new_peak = tl.maximum(peak, logit)
            best = tl.where(logit > peak, at, best)
            fade = tl.where(peak == new_peak, 1.0, tl.exp(peak - new_peak))
            total = total * fade + tl.exp(logit - new_peak)
            peak = new_peak
        # None may be left where a compiler rounds here otherwise than in the stream: what that
        # wrote is right then.
        found = count > 0
        tl.store(best_ptr + part, best, mask=found)
        tl.store(parts_ptr + part, peak, mask=found)
        total += tl.sum(tl.exp(rest - peak), axis=0)
        tl.store(parts_ptr + step + part, total, mask=found)


def quantize(weight: Tensor, words: Tensor, known: Tensor) -> None:
    """Fill in what `SmallHead` keeps of a weight [N, K]."""
    n, k = weight.shape
    num_rows, num_bytes = words.shape
    block_k = triton.next_power_of_2(num_bytes)
    rows = max(1, 8192 // block_k)
    _quantize_kernel[(num_rows // rows,)](
        weight, words, known, n,
        K=k, BYTES=num_bytes, ROWS=rows, BLOCK_K=block_k, STEPS=WEIGHT_STEPS,
        SUMS=2 * _rounding(k), ROUNDING=1 + _rounding(k), num_warps=4,
    )  # fmt: skip


def head_parts(
    x: Tensor, norm: Tensor, weight: Tensor, eps: float, words: Tensor, known: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `small_batch.head_parts` of `weight`, for one or two rows; `words` and `known`: its 8-bit
    rows, as in `SmallHead`."""
    num_rows, k = x.shape
    all_rows, num_words = words.shape[0], words.shape[1] // 4
    num_stretches, chunks = all_rows // STRETCH, num_words // CHUNK
    steps = min(INPUT_STEPS, (2**31 - 1) // (WEIGHT_STEPS * k))  # sums of K products in 32 bits
    normed = torch.empty_like(x)
    inputs = torch.empty(num_rows, 2, num_words, dtype=torch.int32, device=x.device)
    about_inputs = torch.empty(num_rows, 3, device=x.device)
    sums = torch.empty(num_rows, all_rows, device=x.device)
    best = torch.empty(num_rows, num_stretches, dtype=torch.int32, device=x.device)
    parts = torch.empty(4, num_rows, num_stretches, device=x.device)
    pdl = has_pdl()
    options = launch_options(pdl)
    block_k = triton.next_power_of_2(k)
    _input_kernel[(num_rows,)](
        x, norm, normed, inputs, about_inputs, eps,
        K=k, WORDS=num_words, BLOCK_K=block_k, STEPS=steps, ROUNDING=1 + _rounding(k), PDL=pdl,
        num_warps=4, **options,
    )  # fmt: skip
    _stream_kernel[(num_stretches,)](
        inputs, about_inputs, words.view(torch.int32), known, sums, best, parts, weight.shape[0],
        ROWS=num_rows, CHUNKS=chunks, WIDTH=CHUNK, BLOCK_N=tile_rows(num_words), N=STRETCH,
        HARDWARE=not knobs.runtime.interpret, PDL=pdl, num_warps=4, **options,
    )  # fmt: skip
    _candidates_kernel[(num_stretches, num_rows)](
        normed, weight, about_inputs, known, sums, best, parts, weight.shape[0],
        K=k, BLOCK_K=block_k, N=STRETCH, BLOCK=triton.next_power_of_2(num_stretches), PDL=pdl,
        num_warps=4, **options,
    )  # fmt: skip
    return best, parts[0], parts[1]


def tile_rows(num_words: int) -> int:
    """Rows that a program asks for at a time: a power of two."""
    return min(STRETCH, 1 << (TILE_WORDS // num_words).bit_length() - 1)


def _rounding(k: int) -> float:
    """The share that a sum of k in float32, in any order, is off at most."""
    return (k + 64) * 2.0**-24
