"""The forced aligner: audio and the words that were said -> a class of time at each mark.

Prompt: the audio, then each word and its two marks. One pass over packed prompts; nothing is
decoded, so nothing is cached.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.align.passes import Marked
from predictor.align.words import LANGUAGES
from predictor.model.attention import Packing, to_device
from predictor.model.checkpoint.weights import load_model
from predictor.model.config import CheckpointError, num_audio_tokens
from predictor.model.mel import LogMel
from predictor.text.tokenizer import TextTokenizer

DEFAULT_CLASS_S = 0.08  # of the published aligner


class Aligner:
    """Weights, tokenizer and what a class of time means."""

    def __init__(self, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> None:
        """Raises CheckpointError for a folder that holds no aligner."""
        self._device = torch.device(device)
        self._model = load_model(folder, device=self._device, dtype=dtype)
        config = self._model.config
        if not config.num_classes:
            raise CheckpointError(f"{folder / 'config.json'}: this is a recogniser, not an aligner")
        self._mark = config.timestamp_token_id
        self._tokenizer = TextTokenizer.load(folder)
        self._log_mel = LogMel(config.audio.num_mel_bins, device=self._device)
        self.class_s = _class_s(folder)
        self.max_audio_s = config.num_classes * self.class_s
        self.languages = _languages(folder)

    @torch.inference_mode()
    def times(self, batch: Sequence[Marked]) -> list[NDArray[np.float64]]:
        """Seconds [words, 2] of each recording, starts and ends, as the model says them: they may
        go back (`words.monotonic`)."""
        mel = self._log_mel([item.samples for item in batch])
        encoder = self._model.encoder
        audio = encoder(mel.chunks.to(self._model.dtype), encoder.plan(mel.num_frames))
        prompts = [self._prompt(item) for item in batch]
        lengths = [len(prompt) for prompt in prompts]
        tokens = np.concatenate(prompts)
        is_audio = tokens == self._model.config.audio_token_id
        positions = np.concatenate([np.arange(n) for n in lengths])
        x = self._model.decoder.embedding(to_device(tokens, self._device))
        x.index_copy_(0, to_device(np.flatnonzero(is_audio), self._device), audio)
        packing = Packing.of(lengths, device=self._device, dtype=self._model.dtype)
        hidden = self._model.decoder.encode(x, to_device(positions, self._device), packing)
        marks = np.flatnonzero(tokens == self._mark)
        logits: Tensor = self._model.decoder.logits(
            hidden.index_select(0, to_device(marks, self._device))
        )
        seconds = logits.argmax(-1).cpu().numpy() * self.class_s
        counts = np.cumsum([2 * len(item.words) for item in batch])[:-1]
        return [part.reshape(-1, 2) for part in np.split(seconds, counts)]

    def _prompt(self, item: Marked) -> NDArray[np.int64]:
        audio = [self._model.config.audio_token_id] * num_audio_tokens(len(item.samples))
        tokens = [self._tokenizer.audio_start, *audio, self._tokenizer.audio_end]
        for word in item.words:
            tokens += [*self._tokenizer.encode_plain(word), self._mark, self._mark]
        return np.array(tokens, dtype=np.int64)


def _class_s(folder: Path) -> float:
    """Seconds of a class: from processor_config.json, or config.json of the original layout."""
    for name in ("processor_config.json", "config.json"):
        file = folder / name
        if not file.is_file():
            continue
        value = json.loads(file.read_text(encoding="utf-8")).get("timestamp_segment_time")
        if isinstance(value, int | float) and value > 0:
            return float(value) / 1000
    return DEFAULT_CLASS_S


def _languages(folder: Path) -> tuple[str, ...]:
    """Those that config.json names and the published aligner knows, or all that it knows."""
    named = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return tuple(sorted(set(named.get("support_languages") or LANGUAGES) & set(LANGUAGES)))
