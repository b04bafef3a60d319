"""Triton kernels of both ends of a decode step, each with a plain twin in `model/cuda/step.py`.

What they do is little: plain operators would take some twenty kernels for it, most of whose time is
their start.

In steps of few sequences a kernel starts once all programs of the one ahead have signalled, and
reads some things before it waits for that one's end (`small_batch.begin`). A signal does not say
that the signaller has waited: any number of kernels ahead may still run. Why each finds what it
reads:

- Once it has waited, all before it have ended: the one ahead ended after it had waited in turn.
  All writes come after that wait, so none meets what an earlier kernel still reads.
- `enter`, and copies of results, are launched as usual: when all before them has ended. So `slots`,
  page tables, and the cache before the newest token, which attention reads before it waits, and
  `leave` (slots) too, were written before `enter` started. No step writes weights.
- `enter` writes positions, which attention reads before it waits. So the kernel behind `enter`
  waits before it signals (norm and query, key and value of the first layer for one sequence,
  `tiled.Rows` for several): whatever starts behind it starts after the end of `enter`. In large
  batches the kernels between both ends are launched as usual.
- `leave` signals nobody.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from predictor.model.cuda.kernels.decoder import chosen
from predictor.model.cuda.kernels.small_batch import has_pdl, launch_options
from predictor.model.cuda.slots import SlotState, StepPlaces


@triton.jit(do_not_specialize=["table_stride", "last", "vocab_size"])
def _enter_kernel(
    slots_ptr,
    tokens_ptr,
    positions_ptr,
    tables_ptr,
    embedding_ptr,
    x_ptr,
    new_positions_ptr,
    places_ptr,
    lengths_ptr,
    table_stride,
    last,
    vocab_size,
    width,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row)
    position = tl.minimum(tl.load(positions_ptr + slot), last)
    # Where no logit was a number the token may be any: what is read stays inside the embedding.
    token = tl.minimum(tl.load(tokens_ptr + slot), vocab_size - 1)
    page = tl.load(tables_ptr + slot * table_stride + position // PAGE)
    column = tl.arange(0, BLOCK)
    exists = column < width
    x = tl.load(embedding_ptr + token * width + column, mask=exists)
    tl.store(new_positions_ptr + row, position)
    tl.store(places_ptr + row, page * PAGE + position % PAGE)
    tl.store(lengths_ptr + row, (position + 1).to(tl.int32))
    tl.store(x_ptr + row * width + column, x, mask=exists)


def enter(
    state: SlotState, slots: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings of the newest tokens of `slots` [B] int64, [B, hidden]; and their positions,
    places in the cache (both int64) and the lengths with them (int32), [B] each.

    embedding [vocabulary, hidden], contiguous.
    """
    num_rows, (vocab_size, width) = len(slots), embedding.shape
    x = embedding.new_empty(num_rows, width)
    positions, places = torch.empty_like(slots), torch.empty_like(slots)
    lengths = torch.empty(num_rows, dtype=torch.int32, device=slots.device)
    block = triton.next_power_of_2(width)
    _enter_kernel[(num_rows,)](
        slots, state.tokens, state.positions, state.tables, embedding, x,
        positions, places, lengths,
        state.tables.stride(0), state.max_length - 1, vocab_size, width,
        PAGE=state.page_tokens, BLOCK=block, PDL=has_pdl(), num_warps=4,
    )  # fmt: skip
    return x, positions, places, lengths


@triton.jit(do_not_specialize=["scratch"])
def _leave_kernel(
    best_ptr,
    peak_ptr,
    total_ptr,
    slots_ptr,
    new_positions_ptr,
    tokens_ptr,
    positions_ptr,
    results_ptr,
    scratch,
    NUM_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row)
    if PDL:
        gdc_wait()
    position = tl.load(new_positions_ptr + row)
    token, logprob = chosen(best_ptr, peak_ptr, total_ptr, row, NUM_BLOCKS, BLOCK)
    # Several rows may be scratch: all of them write the same.
    tl.store(tokens_ptr + slot, tl.where(slot == scratch, 0, token).to(tl.int64))
    tl.store(positions_ptr + slot, tl.where(slot == scratch, 0, position + 1))
    tl.store(results_ptr + 2 * row, token.to(tl.float32))
    tl.store(results_ptr + 2 * row + 1, logprob)


def leave(
    parts: tuple[Tensor, Tensor, Tensor], where: StepPlaces, state: SlotState, results: Tensor
) -> None:
    """Of each row the likeliest token, the first of equals, becomes its slot's newest, one position
    further; of scratch token 0 at 0. Token and log-probability go to results [B, 2] float32,
    contiguous; a NaN makes the latter NaN. `parts` as `choose_parts` takes them."""
    num_rows, num_blocks = parts[0].shape
    block = triton.next_power_of_2(num_blocks)
    pdl = has_pdl()
    _leave_kernel[(num_rows,)](
        *parts, where.slots, where.positions, state.tokens, state.positions, results,
        state.scratch,
        NUM_BLOCKS=num_blocks, BLOCK=block, PDL=pdl,
        num_warps=1 if block <= 64 else 4, **launch_options(pdl),
    )  # fmt: skip
