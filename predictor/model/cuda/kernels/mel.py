"""Triton kernels of the log-mel features: each replaces several passes over frames that overlap.

Their plain twins are `cut_rows` in `model/cuda/mel.py` and `LogMel._mel_power` in `model/mel.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FRAMES_AT_A_TIME = 4
VALUES_AT_A_TIME = 1024


@triton.jit(do_not_specialize=["num_frames"])
def _frames_kernel(
    waveforms_ptr,
    second_ptr,
    start_ptr,
    size_ptr,
    window_ptr,
    out_ptr,
    num_frames,
    FRAMES: tl.constexpr,
    HOP: tl.constexpr,
    WIDTH: tl.constexpr,
    LEAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    frame = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = frame < num_frames
    chunk = frame // FRAMES
    second = tl.load(second_ptr + chunk, mask=exists, other=0)
    start = tl.load(start_ptr + chunk, mask=exists, other=0)
    size = tl.load(size_ptr + chunk, mask=exists, other=0)
    sample = tl.arange(0, BLOCK)
    first = second * (FRAMES * HOP) + frame % FRAMES * HOP - WIDTH // 2
    place = first[:, None] + sample[None, :]  # [ROWS, BLOCK], within the clip
    padded = tl.maximum(size, LEAST)[:, None]
    beyond = place >= padded + WIDTH // 2
    place = tl.where(place < padded, tl.abs(place), 2 * padded - 2 - place)
    is_sample = exists[:, None] & (sample < WIDTH)[None, :]
    heard = is_sample & (place < size[:, None]) & ~beyond
    x = tl.load(waveforms_ptr + start[:, None] + place, mask=heard, other=0.0)
    window = tl.load(window_ptr + sample, mask=sample < WIDTH, other=0.0)
    out = frame[:, None] * WIDTH + sample[None, :]
    tl.store(out_ptr + out, x * window[None, :], mask=is_sample)


def windowed_frames(
    waveforms: Tensor,
    second: Tensor,
    start: Tensor,
    size: Tensor,
    window: Tensor,
    *,
    frames: int,
    hop: int,
    least: int,
) -> Tensor:
    """The overlapping frames of each second, mirrored at its clip's ends: [N, frames, width].

    waveforms: all clips, one after another; of each second [N] int64: which of its clip it is,
    where the clip starts and how many samples it has, silence being added up to `least`.
    window [width]; `hop`: samples from one frame to the next.
    """
    (num_chunks,), (width,) = second.shape, window.shape
    out = torch.empty(num_chunks, frames, width, device=waveforms.device)
    num_frames = num_chunks * frames
    _frames_kernel[(triton.cdiv(num_frames, FRAMES_AT_A_TIME),)](
        waveforms, second, start, size, window, out, num_frames,
        FRAMES=frames, HOP=hop, WIDTH=width, LEAST=least, ROWS=FRAMES_AT_A_TIME,
        BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["num_values"])
def _power_kernel(spectrum_ptr, out_ptr, num_values, BLOCK: tl.constexpr):
    value = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = value < num_values
    real = tl.load(spectrum_ptr + 2 * value, mask=exists, other=0.0)
    imaginary = tl.load(spectrum_ptr + 2 * value + 1, mask=exists, other=0.0)
    tl.store(out_ptr + value, real * real + imaginary * imaginary, mask=exists)


def power(spectrum: Tensor) -> Tensor:
    """Squared magnitudes of a complex tensor, in its shape."""
    parts = torch.view_as_real(spectrum)
    out = parts.new_empty(spectrum.shape)
    _power_kernel[(triton.cdiv(out.numel(), VALUES_AT_A_TIME),)](
        parts, out, out.numel(), BLOCK=VALUES_AT_A_TIME, num_warps=4
    )
    return out
