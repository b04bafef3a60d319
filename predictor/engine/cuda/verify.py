"""The end of a prefill on the device: which of a draft holds, and where each sequence goes on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.engine.prompts import NOTHING, PromptLayout

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Checks:
    """The rows of a prefill that need logits [W], and the sequences that they belong to [B]."""

    wanted: Tensor  # [W] their places among the packed tokens
    given: Tensor  # [W] the token that is known to follow; below 0 where none is
    is_forced: Tensor  # [W] not 0: it is taken, whatever is likelier
    owner: Tensor  # [W] which of the B; B = none
    slots: Tensor  # [B]

    @staticmethod
    def fill(rows: Ints, layout: PromptLayout, num_sequences: int, filler: int) -> None:
        """All but the slots in `rows` [4, W or more], filled up with rows of nobody that look at
        the packed token `filler`."""
        num_wanted = len(layout.wanted)
        owner = np.repeat(np.arange(len(layout.counts)), layout.counts)
        for row, known, nobody in zip(
            rows,
            (layout.wanted, layout.given, layout.is_forced, owner),
            (filler, NOTHING, 0, num_sequences),
            strict=True,
        ):
            row[:num_wanted] = known
            row[num_wanted:] = nobody


def settle(
    logits: Tensor,
    chosen: tuple[Tensor, Tensor],
    positions: Tensor,
    checks: Checks,
    state: tuple[Tensor, Tensor],
    scratch: int,
) -> Tensor:
    """Set each sequence's newest token and its position behind what is forced and what of its draft
    holds: the longest prefix on which the likeliest tokens agree.

    logits [W, vocabulary]; chosen: the likeliest token of each row and its log-probability;
    positions of all packed tokens; state: newest tokens and their positions of all slots, of which
    `scratch` stays at 0. Gives [W, 3] float32: likeliest token, its log-probability, and that of
    the token that is known to follow.
    """
    tokens, logprobs = chosen
    num_rows, num_sequences = len(tokens), len(checks.slots)
    pairs = torch.stack([checks.given.clamp(min=0), tokens], dim=1)
    known, likeliest = logits.gather(1, pairs).float().unbind(1)
    holds = (tokens == checks.given) | (checks.is_forced != 0)
    rows = torch.arange(num_rows, device=tokens.device).masked_fill_(holds, num_rows - 1)
    last = torch.full((num_sequences + 1,), num_rows - 1, device=tokens.device)
    last = last.scatter_reduce_(0, checks.owner, rows, "amin")[:num_sequences]
    newest_at = positions.index_select(0, checks.wanted.index_select(0, last)) + 1
    state[0].index_copy_(0, checks.slots, tokens.index_select(0, last))
    state[1].index_copy_(0, checks.slots, newest_at.masked_fill_(checks.slots == scratch, 0))
    return torch.stack([tokens.float(), logprobs, logprobs + known - likeliest], dim=1)


def go_on(
    logits: Tensor,
    chosen: tuple[Tensor, Tensor],
    positions: Tensor,
    checks: Checks,
    state: tuple[Tensor, Tensor],
    scratch: int,
) -> Tensor:
    """As `settle` where each sequence has one row, behind which nothing is known: W = B. A third of
    the kernels, for what comes most often."""
    tokens, logprobs = chosen
    newest_at = positions.index_select(0, checks.wanted) + 1
    state[0].index_copy_(0, checks.slots, tokens)
    state[1].index_copy_(0, checks.slots, newest_at.masked_fill_(checks.slots == scratch, 0))
    return torch.stack([tokens.float(), logprobs, logprobs], dim=1)
