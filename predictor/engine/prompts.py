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

    @classmethod
    def of(cls, sequences: Batch[Sequence], slot_length: int) -> PromptLayout:
        """Audio placeholders have token id 0: their embeddings are replaced."""
        rows, audio_rows, wanted, given, is_forced = [], [], [], [], []
        first = 0
        for sequence in sequences:
            tokens, audio = _tokens_of(sequence)
            positions = np.arange(sequence.num_cached, sequence.num_cached + len(tokens))
            rows.append(np.stack([tokens, positions, sequence.slot * slot_length + positions]))
            audio_rows.append(first + audio)
            follows, forced = _checks_of(sequence)
            first += len(tokens)
            wanted.append(np.arange(first - len(follows), first))
            given.append(follows)
            is_forced.append(forced)
        return cls(
            np.concatenate(rows, axis=1),
            np.concatenate(audio_rows),
            tuple(part.shape[1] for part in rows),
            np.concatenate(wanted),
            np.concatenate(given),
            np.concatenate(is_forced),
            tuple(len(part) for part in wanted),
        )

    @property
    def num_tokens(self) -> int:
        return int(self.rows.shape[1])


def _tokens_of(sequence: Sequence) -> tuple[Ints, Ints]:
    """The tokens that are not cached, and which of them are audio."""
    request, num_cached = sequence.request, sequence.num_cached
    num_before = len(request.tokens_before)
    given = sequence.given
    tokens = np.zeros(sequence.num_prompt_tokens + len(given), dtype=np.int64)
    tokens[:num_before] = request.tokens_before
    num_audio_end = num_before + sequence.num_audio_tokens
    tokens[num_audio_end : sequence.num_prompt_tokens] = request.tokens_after
    tokens[sequence.num_prompt_tokens :] = given
    audio = np.arange(max(num_before, num_cached), num_audio_end) - num_cached
    return tokens[num_cached:], audio


def _checks_of(sequence: Sequence) -> tuple[Ints, NDArray[np.bool_]]:
    """Of each row that needs logits, the last ones of a prompt: the token that follows it, and
    whether that is taken as given."""
    if sequence.tokens:  # made anew: all of its answer so far was chosen before
        return np.array([NOTHING]), np.array([False])
    forced, draft = sequence.request.forced, sequence.draft
    follows = np.array([*forced, *draft, NOTHING], dtype=np.int64)
    return follows, np.arange(len(follows)) < len(forced)


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
