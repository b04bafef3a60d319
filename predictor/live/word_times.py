"""Times of the words of an utterance, where an aligner is loaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from predictor import types
from predictor.align.words import places_of
from predictor.errors import AsrError
from predictor.live.events import UtteranceEnded, Word

logger = logging.getLogger(__name__)

# What an aligner hears in an utterance: None in a language it does not know.
FindWords = Callable[[UtteranceEnded], Awaitable[Sequence[types.Word] | None]]

_LONGEST_S: Final = 5.0  # that an item waits for times; it is complete without them too


async def timed_words(ended: UtteranceEnded, find: FindWords) -> tuple[Word, ...]:
    """The utterance's words, with times as far as they are found in time."""
    try:
        async with asyncio.timeout(_LONGEST_S):
            found = await find(ended)
    except (AsrError, TimeoutError) as error:
        logger.warning("no word times for a live item: %s", error or type(error).__name__)
        return ended.words
    return _matched(ended.words, found) if found else ended.words


def _matched(words: Sequence[Word], found: Sequence[types.Word]) -> tuple[Word, ...]:
    """Each word has the times of what lies on its letters. The aligner's words have no marks, and
    are single ideographs in Chinese."""
    text = "".join(word.text for word in words)
    places = places_of([word.text for word in found], text)
    matched, begin = [], 0
    for word in words:
        end = begin + len(word.text)
        on_it = [f for f, (a, b) in zip(found, places, strict=True) if a < end and begin < b]
        if on_it:
            word = replace(word, start_s=on_it[0].start_s, end_s=on_it[-1].end_s)
        matched.append(word)
        begin = end
    return tuple(matched)
