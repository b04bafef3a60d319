"""What the decode loop keeps on the device of each slot, and where one of its steps reads and
writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SlotState:
    """Of S slots; the last one is scratch, for rows that only fill a batch."""

    tokens: Tensor  # [S] int64, the newest token; of scratch any, and 0 after a step
    positions: Tensor  # [S] int64, where it belongs; of scratch always 0
    tables: Tensor  # [S, pages of a sequence] int64
    page_tokens: int  # a power of two
    max_length: int  # of a sequence, in tokens

    @property
    def scratch(self) -> int:
        """The last slot."""
        return self.tokens.shape[0] - 1


@dataclass(frozen=True, slots=True)
class StepPlaces:
    """Where one decode step of B sequences reads and writes; tensors on the device."""

    slots: Tensor  # [B] int64
    positions: Tensor  # [B] int64, of the new token
    places: Tensor  # [B] int64, of the new token in the cache
    lengths: Tensor  # [B] int32, the new token included
    tables: Tensor  # [all slots, pages of a sequence] int64: which pages each slot's sequence has
    # Where many sequences begin alike: pages [n] int64 that hold the beginning, and how many of its
    # tokens each sequence begins with [B] int32: all that any has, or none.
    shared: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(
        cls,
        slots: Tensor,
        positions: Tensor,
        tables: Tensor,
        page_tokens: int,
        shared: tuple[Tensor, Tensor] | None = None,
    ) -> StepPlaces:
        """For new tokens at `positions` [B] of the sequences in `slots` [B]."""
        shift = page_tokens.bit_length() - 1  # pages are a power of two
        assert page_tokens == 1 << shift
        entries = torch.add(positions >> shift, slots, alpha=tables.shape[1])
        pages = tables.view(-1).index_select(0, entries)
        return cls(
            slots=slots,
            positions=positions,
            places=torch.add(positions & (page_tokens - 1), pages, alpha=page_tokens),
            lengths=(positions + 1).to(torch.int32),
            tables=tables,
            shared=shared,
        )
