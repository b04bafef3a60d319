"""Both ends of a decode step: from slots to embeddings and places, and from the head's parts back
to the slots. A kernel each, or plain calls."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from predictor.model.cuda.decoder import PAGE_TOKENS, plain_choose
from predictor.model.cuda.slots import SlotState, StepPlaces
from predictor.model.decoder import Decoder

# Of each stretch of the vocabulary [B, stretches]: its likeliest token (int32), that one's logit,
# and the sum of exponentials beside it (float32).
Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]


class StepDecoder(Protocol):
    """What runs between both ends."""

    def decode(self, x: Tensor, where: StepPlaces) -> Tensor:
        """Embeddings [B, hidden] of new tokens -> what the two below take. Changes x."""

    def parts(self, output: Tensor) -> Parts:
        """What the likeliest tokens are chosen from, by a kernel."""

    def choose(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest tokens [B] int64, and their log-probabilities [B] float32."""


class StepEnds:
    """Begins and ends steps of the sequences in some slots."""

    def __init__(self, state: SlotState, embedding: Tensor, *, use_kernels: bool) -> None:
        """`embedding` [vocabulary, hidden]."""
        self._state = state
        self._embedding = embedding
        self._use_kernels = use_kernels

    def enter(
        self, slots: Tensor, shared: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, StepPlaces]:
        """Embeddings of the newest tokens of `slots` [B] int64: [B, hidden]; and where they go.

        A sequence that has ended may run on: beyond its pages it writes to the scratch page, and no
        further than the longest sequence. `shared` as of StepPlaces.
        """
        state = self._state
        if not self._use_kernels:
            return plain_enter(state, slots, self._embedding, shared)
        x, positions, places, lengths = _kernels().enter(state, slots, self._embedding)
        return x, StepPlaces(slots, positions, places, lengths, state.tables, shared)

    def leave(
        self, decoder: StepDecoder, output: Tensor, where: StepPlaces, results: Tensor
    ) -> None:
        """Set the slots' newest tokens and positions by what `decoder` made of them.

        results [B, 2] float32, contiguous: token and log-probability, NaN where a logit is. Token
        ids are below 2**24, so float32 holds them exactly and one copy serves both.
        """
        if self._use_kernels:
            _kernels().leave(decoder.parts(output), where, self._state, results)
        else:
            plain_leave(decoder.choose(output), where, self._state, results)


def plain_enter(
    state: SlotState,
    slots: Tensor,
    embedding: Tensor,
    shared: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, StepPlaces]:
    """The plain twin of `kernels.enter`."""
    positions = state.positions.index_select(0, slots).clamp_(max=state.max_length - 1)
    where = StepPlaces.of(slots, positions, state.tables, state.page_tokens, shared)
    return F.embedding(state.tokens.index_select(0, slots), embedding), where


def plain_leave(
    chosen: tuple[Tensor, Tensor], where: StepPlaces, state: SlotState, results: Tensor
) -> None:
    """The plain twin of `kernels.leave`, from tokens and log-probabilities [B]."""
    tokens, logprobs = chosen
    is_scratch = where.slots == state.scratch
    positions = (where.positions + 1).masked_fill_(is_scratch, 0)
    state.tokens.index_copy_(0, where.slots, tokens.masked_fill(is_scratch, 0))
    state.positions.index_copy_(0, where.slots, positions)
    torch.stack([tokens.float(), logprobs], dim=1, out=results)


def plain_parts(logits: Tensor, width: int) -> Parts:
    """What `kernels.leave` takes, of logits [B, vocabulary] in stretches of `width`."""
    missing = -logits.shape[1] % width
    padded = F.pad(logits.float(), (0, missing), value=-float("inf"))
    stretches = padded.view(len(padded), -1, width)  # [B, stretches, width]
    peak, best = stretches.max(-1)
    best += width * torch.arange(best.shape[1], device=best.device)
    total = (stretches - peak[..., None]).exp().sum(-1)
    return best.to(torch.int32), peak, total


def ends_difference(decoder: Decoder) -> float:
    """Relative distance of log-probabilities from the plain twins', on random inputs; infinite
    where anything else differs.

    Scratch is there more than once, and sequences in their first, second and last page, at a page's
    end, at their own, and beyond it.
    """
    vocab_size, device = decoder.config.vocab_size, decoder.norm.weight.device
    slots = torch.tensor([3, 6, 0, 6, 5, 1, 6, 4], device=device)
    positions = [0, 64, 9, 159, 300, 63, 0]  # of slots 0 to 6
    tables = torch.randperm(21, generator=torch.Generator().manual_seed(0)).view(7, 3)
    tokens = torch.randint(vocab_size, (7,), generator=torch.Generator().manual_seed(1))
    ours, plain = (
        SlotState(
            tokens.to(device, copy=True), torch.tensor(positions, device=device),
            tables.to(device), PAGE_TOKENS, max_length=160,
        )
        for _ in range(2)
    )  # fmt: skip
    embedding = decoder.embedding.weight
    logits = 3 * torch.randn(len(slots), vocab_size, device=device)
    logits[0, 11] = logits[0, vocab_size - 1] = 30.0  # equals: the first one wins
    distances = []
    for width in (128, 8192):  # of a stretch, as in small batches and in others
        x, *found = _kernels().enter(ours, slots, embedding)
        plain_x, where = plain_enter(plain, slots, embedding)
        expected = (plain_x, where.positions, where.places, where.lengths)
        results, plain_results = (torch.empty(len(slots), 2, device=device) for _ in range(2))
        _kernels().leave(plain_parts(logits, width), where, ours, results)
        plain_leave(plain_choose(logits), where, plain, plain_results)
        pairs = [
            *zip((x, *found), expected, strict=True),
            (results[:, 0], plain_results[:, 0]),
            (ours.tokens, plain.tokens),
            (ours.positions, plain.positions),
        ]
        is_same = all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
        error = (results[1:, 1] - plain_results[1:, 1]).norm() / plain_results[1:, 1].norm()
        best, peak, total = plain_parts(logits, width)
        total[1, -1] = float("nan")
        _kernels().leave((best, peak, total), where, ours, results)
        is_same &= results[:, 1].isnan().tolist() == [row == 1 for row in range(len(slots))]
        distances.append(float(error) if is_same else float("inf"))
    return float(torch.tensor(distances).max())  # NaN where one is


def _kernels() -> Any:
    """Imported late: Triton is there on CUDA machines only, and takes its time."""
    from predictor.model.cuda.kernels import step as step_kernels

    return step_kernels
