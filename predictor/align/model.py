"""The forced aligner: audio and the words that were said -> a class of time at each mark.

Prompt: the audio, then each word and its two marks. One pass over packed prompts; nothing is
decoded, so nothing is cached.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.align.forward import Prompts, forward_of
from predictor.align.passes import Marked, Times
from predictor.align.words import LANGUAGES
from predictor.model.checkpoint.weights import load_model
from predictor.model.config import CheckpointError, num_audio_tokens
from predictor.model.quantized import Quantize
from predictor.text.tokenizer import TextTokenizer
from predictor.types import SAMPLE_RATE_HZ, Samples

DEFAULT_CLASS_S: Final = 0.08  # of the published aligner
TRIAL_S: Final = 2.0  # on which kernels are compared with plain modules
WARM_UP_CLIP_S: Final = 30.0
MANY_WORDS_PER_S: Final = 5.0  # as fast as anybody speaks
MAX_KNOWN_WORDS: Final = 20_000


class Aligner:
    """Weights, tokenizer and what a class of time means."""

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        quantize_part: Quantize | None = None,
    ) -> None:
        """`quantize_part` as of `load_model`. Raises CheckpointError for a folder that holds no
        aligner."""
        self._device = torch.device(device)
        self.model = load_model(
            folder, device=self._device, dtype=dtype, quantize_part=quantize_part
        )
        config = self.model.config
        if not config.num_classes:
            raise CheckpointError(f"{folder / 'config.json'}: this is a recogniser, not an aligner")
        self._mark = config.timestamp_token_id
        self._tokenizer = TextTokenizer.load(folder)
        self._ids: dict[str, tuple[int, ...]] = {}
        self.class_s = _class_s(folder)
        self.max_audio_s = config.num_classes * self.class_s
        self.languages = _languages(folder)
        clips = [_noise(TRIAL_S), _noise(TRIAL_S / 2)]
        with torch.inference_mode():
            trial = self.prompts([Marked(clip, ("one", "two", "three")) for clip in clips])
            self.forward = forward_of(self.model, (clips, trial))

    def warm_up(self, audio_s: float) -> float:
        """Run once what is run later, so that kernels are compiled and its memory is taken: with
        `audio_s` of audio at once, or the half, and so on, where memory is short. The engine may
        have taken its share before. Gives how much it was.

        Raises torch.OutOfMemoryError when not even one clip fits.
        """
        while True:
            try:
                self._run_once(audio_s)
            except torch.OutOfMemoryError:
                if audio_s <= WARM_UP_CLIP_S:
                    raise
                audio_s /= 2
            else:
                return audio_s

    def _run_once(self, audio_s: float) -> None:
        clip = _noise(min(audio_s, WARM_UP_CLIP_S, self.max_audio_s))
        words = ("word",) * math.ceil(MANY_WORDS_PER_S * len(clip) / SAMPLE_RATE_HZ)
        count = max(1, int(audio_s * SAMPLE_RATE_HZ // len(clip)))
        self.begin([Marked(clip, words)] * count).result()

    @torch.inference_mode()
    def begin(self, batch: Sequence[Marked]) -> Pass:
        """Start a pass over all recordings."""
        prompts = self.prompts(batch)
        scores = self.forward([item.samples for item in batch], prompts)
        return Pass(scores.argmax(-1), self.class_s, [len(item.words) for item in batch])

    def prompts(self, batch: Sequence[Marked]) -> Prompts:
        """The packed prompts of one pass."""
        prompts = [self._prompt(item) for item in batch]
        tokens = np.concatenate(prompts)
        lengths = tuple(len(prompt) for prompt in prompts)
        return Prompts(
            tokens,
            np.concatenate([np.arange(length) for length in lengths]),
            lengths,
            np.flatnonzero(tokens == self.model.config.audio_token_id),
            np.flatnonzero(tokens == self._mark),
        )

    def _prompt(self, item: Marked) -> NDArray[np.int64]:
        audio = [self.model.config.audio_token_id] * num_audio_tokens(len(item.samples))
        tokens = [self._tokenizer.audio_start, *audio, self._tokenizer.audio_end]
        for word in item.words:
            tokens += [*self._encoded(word), self._mark, self._mark]
        return np.array(tokens, dtype=np.int64)

    def _encoded(self, word: str) -> tuple[int, ...]:
        """A word's tokens; the same few thousand come again and again."""
        ids = self._ids.get(word)
        if ids is None:
            if len(self._ids) >= MAX_KNOWN_WORDS:
                self._ids.clear()
            ids = self._ids[word] = tuple(self._tokenizer.encode_plain(word))
        return ids


class Pass:
    """Classes of time on their way to the host; nothing started after them is waited for."""

    def __init__(self, classes: Tensor, class_s: float, num_words: Sequence[int]) -> None:
        self._classes, self._class_s, self._num_words = classes, class_s, num_words
        self._arrived: torch.cuda.Event | None = None
        if classes.is_cuda:
            self._classes = torch.empty(classes.shape, dtype=classes.dtype, pin_memory=True)
            self._classes.copy_(classes, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    @property
    def is_done(self) -> bool:
        return self._arrived is None or self._arrived.query()  # type: ignore[no-untyped-call]

    def result(self) -> list[Times]:
        """Seconds [words, 2] of each recording, starts and ends, as the model says them: they may
        go back (`words.monotonic`)."""
        if self._arrived is not None:
            self._arrived.synchronize()
        seconds = self._classes.numpy() * self._class_s
        ends = 2 * np.cumsum(self._num_words)
        return [part.reshape(-1, 2) for part in np.split(seconds, ends[:-1])]


def _noise(seconds: float) -> Samples:
    size = round(seconds * SAMPLE_RATE_HZ)
    return 0.1 * np.random.default_rng(0).standard_normal(size, dtype=np.float32)


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
