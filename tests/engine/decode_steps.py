"""Decode steps of a loop of its own, from a state made up at random: what the kernels of a step's
ends give must equal what plain calls give, to the bit, since all between them is the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from predictor.engine.cuda.capture import Capturer
from predictor.engine.cuda.decode_loop import DecodeLoop, page_tables
from predictor.model.attention import KvCache
from predictor.model.cuda.decoder import FusedDecoder, Fusion
from predictor.model.cuda.slots import SlotState, StepPlaces
from predictor.model.cuda.step import plain_enter, plain_leave, plain_parts
from predictor.model.cuda.tiled import few_decoders
from predictor.model.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Case:
    """What a loop is made for, and what it runs."""

    kv_dtype: torch.dtype
    rows: tuple[int, ...]  # slots; as many as there are is scratch
    positions: tuple[int, ...]  # of all slots and scratch
    num_steps: int
    shares: bool = False  # the rows' first page
    max_length: int = 160
    page_tokens: int = 64


@torch.inference_mode()
def steps_of(
    decoder: Decoder, fusion: Fusion, case: Case, *, in_graph: bool = False
) -> list[Tensor]:
    """What all steps gave, the state they left, and the cache: of all but scratch."""
    device = decoder.norm.weight.device
    num_slots, config = len(case.positions) - 1, decoder.config
    width = -(-case.max_length // case.page_tokens)
    scratch_page = num_slots * width
    cache = KvCache(
        num_layers=config.num_layers, num_pages=scratch_page + 1, page_tokens=case.page_tokens,
        num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, device=device,
        dtype=case.kv_dtype,
    )  # fmt: skip
    chance = torch.Generator().manual_seed(0)
    cache.data.copy_(torch.randn(cache.data.shape, generator=chance).to(case.kv_dtype))
    tables = page_tables(num_slots, case.max_length, case.page_tokens, scratch_page, device)
    tables[:-1] = torch.randperm(scratch_page, generator=chance).view(num_slots, width)
    if case.shares:
        tables[list(case.rows), 0] = tables[case.rows[0], 0]
    fused = FusedDecoder(decoder, cache, fusion, max_length=case.max_length, tables=tables)
    few = few_decoders(decoder, cache, fusion, fused.table)
    loop = DecodeLoop(
        fused, few, num_slots=num_slots, max_length=case.max_length,
        page_tokens=case.page_tokens, tables=tables,
    )  # fmt: skip
    bucket = len(case.rows)
    if in_graph:  # whose capture runs a step of scratch
        loop.capture(bucket, Capturer(device), shares=case.shares)
    loop.rows[:bucket] = torch.tensor(case.rows)
    loop.tokens.copy_(torch.randint(config.vocab_size, loop.tokens.shape, generator=chance))
    loop.positions.copy_(torch.tensor(case.positions))
    if case.shares:
        loop.shares = True
        loop._shared_pages[0] = tables[case.rows[0], 0]
        loop._shared_counts[:bucket] = case.page_tokens
    results = torch.empty(case.num_steps, bucket, 2, device=device)
    loop.run(bucket, results)
    is_own = torch.tensor(case.rows, device=device) != loop.scratch
    state = [loop.tokens, loop.positions]
    return [results[:, is_own], *state, cache.data[:, :, :scratch_page].float()]


def random_state(
    num_slots: int, page_tokens: int, num_pages: int, vocab_size: int, device: torch.device
) -> SlotState:
    """Slots at any position, some beyond their end, with pages in any order."""
    chance = torch.Generator().manual_seed(num_slots)
    max_length = num_pages * page_tokens - 3
    positions = torch.randint(max_length + page_tokens, (num_slots + 1,), generator=chance)
    positions[0], positions[-1] = max_length - 1, 0
    tables = torch.randperm((num_slots + 1) * num_pages, generator=chance).view(-1, num_pages)
    tokens = torch.randint(vocab_size, (num_slots + 1,), generator=chance)
    return SlotState(
        tokens.to(device), positions.to(device), tables.to(device), page_tokens, max_length
    )


def ends_differ(
    num_rows: int, page_tokens: int, embedding: Tensor, *, width: int = 128, num_pages: int = 5
) -> str | None:
    """What the kernels do otherwise than plain calls, with rows of scratch among others, equals for
    the likeliest, and NaN; `width`: of a stretch of the vocabulary."""
    from predictor.model.cuda.kernels import step as kernels

    device, vocab_size = embedding.device, len(embedding)
    num_slots = num_rows + 3
    ours, plain = (
        random_state(num_slots, page_tokens, num_pages, vocab_size, device) for _ in range(2)
    )
    chance = torch.Generator().manual_seed(num_rows)
    slots = torch.randperm(num_slots, generator=chance)[:num_rows].to(device)
    slots[1::3] = ours.scratch
    found = kernels.enter(ours, slots, embedding)
    x, where = plain_enter(plain, slots, embedding)
    expected = (x, where.positions, where.places, where.lengths)
    names = ("embeddings", "positions", "places", "lengths")
    for name, a, b in zip(names, found, expected, strict=True):
        if a.dtype != b.dtype or not torch.equal(a, b):
            return f"{name}: {a} instead of {b}"
    logits = 3 * torch.randn(num_rows, vocab_size, generator=chance).to(device)
    likeliest = vocab_size // 2
    logits[:, likeliest] = logits[:, vocab_size - 1] = logits.max() + 1
    logits[0, 3] = float("nan")
    results, plain_results = (torch.empty(num_rows, 2, device=device) for _ in range(2))
    given = StepPlaces(slots, found[1], found[2], found[3], ours.tables)
    kernels.leave(plain_parts(logits, width), given, ours, results)
    tokens = torch.full_like(slots, likeliest)
    tokens[0] = results[0, 0].long()  # where a logit is no number any token may be the likeliest
    logprobs = logits.log_softmax(-1)[:, likeliest]
    plain_leave((tokens, logprobs), where, plain, plain_results)
    if not torch.allclose(results, plain_results, rtol=5e-5, equal_nan=True):
        return f"results: {results} instead of {plain_results}"
    if results[:, 1].isnan().tolist() != [True] + [False] * (num_rows - 1):
        return f"log-probabilities {results[:, 1]}"
    if not torch.equal(ours.tokens, plain.tokens):
        return f"tokens: {ours.tokens} instead of {plain.tokens}"
    if not torch.equal(ours.positions, plain.positions):
        return f"newest positions: {ours.positions} instead of {plain.positions}"
    return None
