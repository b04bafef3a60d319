"""Prompts of a prefill step laid out for the device: audio placeholders between runs of text."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.engine.sequence import Batch, Prefilled

Ints = NDArray[np.int64]

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
    def of(cls, sequences: Batch, page_tokens: int) -> PromptLayout:
        """Audio placeholders have token id 0: their embeddings are replaced.

        Written for rounds of many small steps: what is done for each sequence is done in lists,
        all else for the whole step at once.
        """
        cached = [s.num_cached for s in sequences]
        lengths = [s.reach - done for s, done in zip(sequences, cached, strict=True)]
        counts = [s.num_checks for s in sequences]
        tokens, audio_rows, (given, forced) = _tokens(sequences, cached, counts)
        rows = np.empty((3, len(tokens)), dtype=np.int64)
        rows[0] = tokens
        rows[1], rows[2] = _places(sequences, cached, lengths, page_tokens)
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(
            rows, audio_rows, tuple(lengths), _last_of(ends, counts),
            np.array(given, dtype=np.int64), np.array(forced, dtype=np.bool_),
            tuple(counts), any(cached),
        )  # fmt: skip

    @property
    def num_tokens(self) -> int:
        return int(self.rows.shape[1])


def _tokens(
    sequences: Batch, cached: list[int], counts: list[int]
) -> tuple[list[int], Ints, tuple[list[int], list[bool]]]:
    """Token ids of what is not cached, packed; which of them are audio; and of the rows that need
    logits the token that is known to follow, and whether it is taken whatever is likelier."""
    tokens: list[int] = []
    audio_rows = [np.zeros(0, dtype=np.int64)]
    given: list[int] = []
    is_forced: list[bool] = []
    for sequence, num_cached, count in zip(sequences, cached, counts, strict=True):
        request = sequence.request
        num_before = len(request.tokens_before)
        num_audio = num_before + sequence.num_audio_tokens - max(num_before, num_cached)
        tokens += request.tokens_before[num_cached:]
        audio_rows.append(np.arange(len(tokens), len(tokens) + num_audio))
        tokens += [0] * num_audio
        tokens += request.tokens_after
        known = sequence.given
        tokens += known
        num_known = 0 if sequence.tokens else count - 1  # else its answer was chosen before
        num_forced = max(0, num_known - len(sequence.draft))
        given += (*known[len(known) - num_known :], *[NOTHING] * (count - num_known))
        is_forced += [True] * num_forced + [False] * (count - num_forced)
    return tokens, np.concatenate(audio_rows), (given, is_forced)


def _places(
    sequences: Batch, cached: list[int], lengths: list[int], page_tokens: int
) -> tuple[Ints, Ints]:
    """Of each packed token its position within its sequence, and its place in the cache."""
    sizes = np.array(lengths, dtype=np.int64)
    shift = np.array(cached, dtype=np.int64) - (np.cumsum(sizes) - sizes)
    positions = shift.repeat(sizes)
    positions += np.arange(len(positions))
    pages: list[int] = []
    first_pages = []
    for sequence in sequences:
        first_pages.append(len(pages))
        pages += sequence.pages
    page, within = np.divmod(positions, page_tokens)
    page += np.array(first_pages, dtype=np.int64).repeat(sizes)
    return positions, np.array(pages, dtype=np.int64)[page] * page_tokens + within


def _last_of(ends: Ints, counts: list[int]) -> Ints:
    """The last `counts` places before each of `ends`, in order."""
    sizes = np.array(counts, dtype=np.int64)
    shift = ends - np.cumsum(sizes)
    return np.arange(sizes.sum()) + np.repeat(shift, sizes)


def verified(
    layout: PromptLayout, tokens: list[int], logprobs: list[float], given_logprobs: list[float]
) -> tuple[list[list[int]], list[list[float]], list[tuple[tuple[float, ...], int]]]:
    """What the rows that needed logits gave each sequence.

    tokens and logprobs [W]: the likeliest token behind each row; given_logprobs [W]: of the one
    that is known to follow. Gives new tokens, the accepted ones of a draft and one more; their
    log-probabilities; and of each sequence those of its forced tokens and how many of its draft
    were accepted.
    """
    given, is_forced = layout.given.tolist(), layout.is_forced.tolist()
    new_tokens, new_logprobs, found = [], [], []
    first = 0
    for count in layout.counts:
        first_new = first + sum(is_forced[first : first + count])
        last = first_new
        while tokens[last] == given[last]:  # behind the last row nothing is known
            last += 1
        new_tokens.append(tokens[first_new : last + 1])
        new_logprobs.append(logprobs[first_new : last + 1])
        found.append((tuple(given_logprobs[first:first_new]), last - first_new))
        first += count
    return new_tokens, new_logprobs, found


def prefilled(
    found: abc.Sequence[tuple[tuple[float, ...], int]], loudest: abc.Sequence[abc.Sequence[float]]
) -> tuple[Prefilled, ...]:
    """`found` as `verified` gives it, with what each sequence's stretches heard."""
    return tuple(
        Prefilled(logprobs, num_accepted, tuple(heard))
        for (logprobs, num_accepted), heard in zip(found, loudest, strict=True)
    )
