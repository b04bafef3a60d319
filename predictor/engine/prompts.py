"""Prompts of a prefill step laid out for the device: audio placeholders between runs of text."""

from __future__ import annotations

from collections.abc import Sequence as Batch
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.engine.sequence import Prefilled, Sequence

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NOTHING = -1  # no token follows a row that the host knows


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """What a step prefills, packed: of each sequence what is not cached, one after another."""

    rows: Ints  # [3, T] token ids, positions within each sequence, and places in the cache
    audio_rows: Ints  # [sum of audio tokens] which of the T are audio
    lengths: tuple[int, ...]  # tokens of each sequence
    wanted: Ints  # [W] which of the T need logits, in order
    given: Ints  # [W] the token that is known to follow each; NOTHING behind the last
    is_forced: NDArray[np.bool_]  # [W] the token that follows is taken, whatever is likelier
    counts: tuple[int, ...]  # of the W, those of each sequence
    reads_cache: bool  # some sequence attends to what was cached before

    @classmethod
    def of(cls, sequences: Batch[Sequence], page_tokens: int) -> PromptLayout:
        """Audio placeholders have token id 0: their embeddings are replaced."""
        lengths = tuple(s.reach - s.num_cached for s in sequences)
        counts = tuple(s.num_checks for s in sequences)
        rows = np.zeros((3, sum(lengths)), dtype=np.int64)
        given = np.full(sum(counts), NOTHING)
        is_forced = np.zeros(sum(counts), dtype=np.bool_)
        audio_rows = [np.zeros(0, dtype=np.int64)]
        wanted = [np.zeros(0, dtype=np.int64)]
        first = first_check = 0
        for sequence, length, count in zip(sequences, lengths, counts, strict=True):
            end, end_checks = first + length, first_check + count
            audio = _fill(sequence, rows[:, first:end], page_tokens)
            audio_rows.append(first + audio)
            wanted.append(np.arange(end - count, end))
            if not sequence.tokens:  # else all of its answer so far was chosen before
                forced = sequence.request.forced
                given[first_check : end_checks - 1] = (*forced, *sequence.draft)
                is_forced[first_check : first_check + len(forced)] = True
            first, first_check = end, end_checks
        return cls(
            rows, np.concatenate(audio_rows), lengths, np.concatenate(wanted), given, is_forced,
            counts, any(s.num_cached for s in sequences),
        )  # fmt: skip

    @property
    def num_tokens(self) -> int:
        return int(self.rows.shape[1])


def _fill(sequence: Sequence, rows: Ints, page_tokens: int) -> Ints:
    """Write token ids, positions and places of what is not cached into `rows` [3, length]; which
    of them are audio."""
    request, num_cached = sequence.request, sequence.num_cached
    num_before, num_prompt = len(request.tokens_before), sequence.num_prompt_tokens
    num_audio_end = num_before + sequence.num_audio_tokens
    tokens, positions = rows[0], rows[1]
    if num_cached < num_before:
        tokens[: num_before - num_cached] = request.tokens_before[num_cached:]
    tokens[num_audio_end - num_cached : num_prompt - num_cached] = request.tokens_after
    tokens[num_prompt - num_cached :] = sequence.given
    positions[:] = np.arange(num_cached, num_cached + rows.shape[1])
    starts = page_tokens * np.array(sequence.pages)
    rows[2] = starts[positions // page_tokens] + positions % page_tokens
    return np.arange(max(num_before, num_cached), num_audio_end) - num_cached


def verified(
    layout: PromptLayout, tokens: Ints, logprobs: Floats, given_logprobs: Floats
) -> tuple[list[list[int]], list[list[float]], list[tuple[tuple[float, ...], int]]]:
    """What the rows that needed logits gave each sequence.

    tokens and logprobs [W]: the likeliest token behind each row; given_logprobs [W]: of the one
    that is known to follow. Gives new tokens, the accepted ones of a draft and one more; their
    log-probabilities; and of each sequence those of its forced tokens and how many of its draft
    were accepted.
    """
    new_tokens, new_logprobs, found = [], [], []
    first = 0
    for count in layout.counts:
        rows = slice(first, first + count)
        num_forced = int(layout.is_forced[rows].sum())
        first_new = first + num_forced
        differs = tokens[first_new : first + count] != layout.given[first_new : first + count]
        num_accepted = int(differs.argmax())  # the last one always differs
        until = first_new + num_accepted + 1
        new_tokens.append(tokens[first_new:until].tolist())
        new_logprobs.append(logprobs[first_new:until].tolist())
        found.append((tuple(given_logprobs[first:first_new].tolist()), num_accepted))
        first += count
    return new_tokens, new_logprobs, found


def prefilled(
    found: Batch[tuple[tuple[float, ...], int]], loudest: Batch[Batch[float]]
) -> tuple[Prefilled, ...]:
    """`found` as `verified` gives it, with what each sequence's stretches heard."""
    return tuple(
        Prefilled(logprobs, num_accepted, tuple(heard))
        for (logprobs, num_accepted), heard in zip(found, loudest, strict=True)
    )
