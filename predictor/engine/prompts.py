"""Prompts of a prefill step laid out for the device: audio placeholders between runs of text."""

from __future__ import annotations

from collections.abc import Sequence as Batch
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.engine.sequence import Sequence

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """Packed prompts, one after another."""

    rows: Ints  # [3, T] token ids, positions within each prompt, and places in the cache
    audio_rows: Ints  # [sum of audio tokens] which of the T are audio

    @classmethod
    def of(cls, sequences: Batch[Sequence], slot_length: int) -> PromptLayout:
        """Audio placeholders have token id 0: their embeddings are replaced."""
        rows = np.zeros((3, sum(s.num_prompt_tokens for s in sequences)), dtype=np.int64)
        audio_rows = [np.zeros(0, dtype=np.int64)]
        first = 0
        for sequence in sequences:
            request, end = sequence.request, first + sequence.num_prompt_tokens
            audio_start = first + len(request.tokens_before)
            audio_end = audio_start + sequence.num_audio_tokens
            rows[0, first:audio_start] = request.tokens_before
            rows[0, audio_end:end] = request.tokens_after
            rows[1, first:end] = np.arange(end - first)
            rows[2, first:end] = sequence.slot * slot_length + rows[1, first:end]
            audio_rows.append(np.arange(audio_start, audio_end))
            first = end
        return cls(rows, np.concatenate(audio_rows))

    @property
    def num_tokens(self) -> int:
        return int(self.rows.shape[1])
