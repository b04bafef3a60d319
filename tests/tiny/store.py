"""All utterances made so far: samples in one int16 buffer on the device, the rest in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Ragged:
    """A growing list of integer rows, kept flat: `flat[offsets[i]:offsets[i + 1]]` is row i."""

    def __init__(self) -> None:
        self._flat = np.zeros(1 << 20, np.int32)
        self._offsets = np.zeros(1 << 16, np.int64)
        self.count = 0

    def extend(self, flat: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        """Add the rows of one block (its own offsets start at 0)."""
        n, start = len(offsets) - 1, int(self._offsets[self.count])
        while start + len(flat) > len(self._flat):
            self._flat = np.concatenate([self._flat, np.zeros_like(self._flat)])
        while self.count + n + 1 > len(self._offsets):
            self._offsets = np.concatenate([self._offsets, np.zeros_like(self._offsets)])
        self._flat[start : start + len(flat)] = flat
        self._offsets[self.count + 1 : self.count + n + 1] = start + offsets[1:]
        self.count += n

    def row(self, i: int) -> NDArray[np.int32]:
        return self._flat[self._offsets[i] : self._offsets[i + 1]]

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._offsets[rows + 1] - self._offsets[rows]

    def gather(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int32]:
        """The first `lengths[j]` entries of each row, one row after another."""
        starts = np.repeat(self._offsets[rows] - np.cumsum(lengths) + lengths, lengths)
        return self._flat[starts + np.arange(len(starts))]


class Store:
    """Utterances by index. Samples live on `device`; `capacity` is the number of samples kept."""

    def __init__(self, device: torch.device, capacity: int) -> None:
        self.audio = torch.zeros(capacity, dtype=torch.int16, device=device)
        self.num_samples = 0
        self.start = np.zeros(0, np.int64)  # first sample of each utterance in `audio`
        self.length = np.zeros(0, np.int64)  # samples
        self.language = np.zeros(0, np.uint8)  # 0 none, 1 English, 2 Chinese
        self.tokens = Ragged()  # text tokens when the utterance stands first
        self.follow = Ragged()  # text tokens when it follows another of its language
        self.context = Ragged()
        self.unit_tokens = Ragged()  # cumulative tokens by unit
        self.unit_starts = Ragged()  # first sample by unit, within the utterance
        self.unit_ends = Ragged()  # end sample by unit
        self.by_language: dict[int, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return len(self.length)

    def full(self, block: Any) -> bool:
        return self.num_samples + len(block.audio) > len(self.audio)

    def add(self, block: Any) -> None:
        """Take in one block of `corpus.start_producers`."""
        samples = torch.from_numpy(np.ascontiguousarray(block.audio))
        if self.audio.is_cuda:
            samples = samples.pin_memory()
        end = self.num_samples + len(samples)
        self.audio[self.num_samples : end].copy_(samples, non_blocking=True)
        self.start = np.concatenate([self.start, self.num_samples + block.audio_offsets[:-1]])
        self.length = np.concatenate([self.length, np.diff(block.audio_offsets)])
        self.language = np.concatenate([self.language, block.language])
        self.tokens.extend(block.tokens, block.token_offsets)
        self.context.extend(block.context_tokens, block.context_offsets)
        self.unit_tokens.extend(block.unit_tokens, block.unit_offsets)
        self.unit_starts.extend(block.unit_starts, block.unit_offsets)
        self.unit_ends.extend(block.unit_ends, block.unit_offsets)
        self.follow.extend(*_follow_tokens(block))
        self.num_samples = end
        self.by_language = {k: np.flatnonzero(self.language == k) for k in (0, 1, 2)}


def _follow_tokens(block: Any) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Tokens of each item as it reads after another sentence: its first unit is encoded anew."""
    rows = []
    for i in range(len(block.language)):
        tokens = block.tokens[block.token_offsets[i] : block.token_offsets[i + 1]]
        lead = block.lead_tokens[block.lead_offsets[i] : block.lead_offsets[i + 1]]
        units = block.unit_tokens[block.unit_offsets[i] : block.unit_offsets[i + 1]]
        rows.append(np.concatenate([lead, tokens[units[0] :]]) if len(units) else tokens)
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    flat = np.concatenate(rows) if rows else np.zeros(0)
    return flat.astype(np.int32), offsets
