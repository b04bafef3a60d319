"""When each word was said: the text of a piece goes to the aligner, times come back.

A server without an aligner refuses; so does one whose aligner does not know the language.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.align.words import places_of, split_words
from predictor.errors import InvalidInput
from predictor.live.events import UtteranceEnded
from predictor.types import AnySamples, Word

Times = NDArray[np.float64]  # [words, 2] starts and ends, seconds
Align = Callable[[AnySamples, Sequence[str]], Awaitable[Times]]
TokenSpans = Sequence[tuple[int, int, float]]  # (start, end, log-probability) within the text


@dataclass(frozen=True, slots=True)
class WordTimes:
    """An aligner and what it can do."""

    align: Align
    languages: tuple[str, ...]
    max_audio_s: float  # of one piece

    def check(self, language: str | None) -> None:
        """Raises InvalidInput for a language that the aligner does not know."""
        if language is not None and language not in self.languages:
            raise InvalidInput(
                f"words: there are no word times for {language}, only for "
                f"{', '.join(self.languages)}",
                field="language",
                value=language,
                limit=list(self.languages),
            )

    async def of(
        self,
        samples: AnySamples,
        text: str,
        language: str | None,
        *,
        at_s: float,
        spans: TokenSpans,
        confidence: float,
    ) -> tuple[Word, ...] | None:
        """The words of a piece that begins at `at_s`; None in a language the aligner does not know.

        `confidence` is that of words on which no token lies. Raises InvalidInput where splitting
        needs a package that is not there, and what the aligner raises.
        """
        if text and language not in self.languages:
            return None
        words = await asyncio.to_thread(split_words, text, language)
        if not words:
            return ()
        times = at_s + await self.align(samples, words)
        scores = [
            _confidence(spans, start, end, confidence) for start, end in places_of(words, text)
        ]
        return words_of(words, text, times, scores)

    async def of_utterance(self, ended: UtteranceEnded) -> tuple[Word, ...] | None:
        """Of what was said in a live session; as `of`."""
        return await self.of(
            ended.samples, ended.text, ended.language, at_s=ended.start_s, spans=(), confidence=1.0
        )


def words_of(
    words: Sequence[str],
    text: str,
    times: Times,
    confidences: Sequence[float] | None = None,
) -> tuple[Word, ...]:
    """Words as they stand in the text they were split from."""
    scores: Sequence[float | None] = confidences or [None] * len(words)
    return tuple(
        Word(text[start:end] or word, round(begin_s, 3), round(end_s, 3), score)
        for word, (start, end), (begin_s, end_s), score in zip(
            words, places_of(words, text), times.tolist(), scores, strict=True
        )
    )


def no_aligner(field: str = "words") -> InvalidInput:
    """Of a server without one."""
    return InvalidInput(
        f"{field}: this server has no aligner (settings aligner_dir and aligner_id), so it knows "
        "no word times",
        field=field,
        limit="segments",
    )


def _confidence(spans: TokenSpans, start: int, end: int, otherwise: float) -> float:
    on_it = [logprob for first, last, logprob in spans if first < end and start < last]
    return min(1.0, math.exp(math.fsum(on_it) / len(on_it))) if on_it else otherwise
