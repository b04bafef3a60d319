"""A segment's text as the parts that cues show, where it is known when each word was said.

A part ends where a sentence or a clause does, or at a pause, before it is too long for its lines or
its time; always before a gap in which nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from predictor.text.cue_lines import SubtitleOptions, lines_of, width
from predictor.types import Word

_OPENING: Final = "\"'([{“‘«‹（「『《【〈¿¡"
_SENTENCE: Final = re.compile(r"[.!?…。！？؟۔][\"'’”)」』）»]*\s*\Z")
_CLAUSE: Final = re.compile(r"[,;:，、；：،؛–—][\"'’”)」』）»]*\s*\Z")
_PAUSE_S: Final = 0.25  # is heard as one
# What an end is worth beside a part that is as full as it can be, which is worth 1.
_AFTER_SENTENCE: Final = 1.0
_AFTER_CLAUSE: Final = 0.6
_AFTER_PAUSE: Final = 0.5
_TOO_SHORT: Final = -1.0


@dataclass(frozen=True, slots=True)
class Said:
    """Some words in a row, with the punctuation about them, and when they were said."""

    text: str
    start_s: float
    end_s: float


def parts_by_words(text: str, words: Sequence[Word], options: SubtitleOptions) -> list[Said]:
    """`text` in parts that each fit into a cue; empty where the words are not those of the text.

    A word that is wider than a cue's lines makes a part that does not fit.
    """
    units = _units(text, words)
    parts: list[Said] = []
    for run in _runs(units, options):
        while run:
            count = _count(run, options)
            parts.append(_joined(run[:count], options))
            run = run[count:]
    return parts


def _units(text: str, words: Sequence[Word]) -> list[Said]:
    """Each word with what stands about it: together they are the text."""
    starts, after = [], 0
    for index, word in enumerate(words):
        found = text.find(word.text, after)
        if found < 0 or not word.text:
            return []
        starts.append(0 if index == 0 else _border(text, after, found))
        after = found + len(word.text)
    return [
        Said(text[start:end], word.start_s, max(word.start_s, word.end_s))
        for word, (start, end) in zip(words, pairwise([*starts, len(text)]), strict=True)
    ]


def _border(text: str, end: int, start: int) -> int:
    """Where the unit of the word that begins at `start` begins: with its opening punctuation."""
    between = text[end:start]
    if between[-1:].isspace():
        return start
    if (space := between.rfind(" ")) >= 0:
        return end + space + 1
    while start > end and text[start - 1] in _OPENING:
        start -= 1
    return start


def _runs(units: Sequence[Said], options: SubtitleOptions) -> Iterator[list[Said]]:
    """Divided at gaps that no cue may span."""
    run: list[Said] = []
    for unit in units:
        if run and unit.start_s - run[-1].end_s > options.max_gap_s:
            yield run
            run = []
        run.append(unit)
    if run:
        yield run


def _count(run: Sequence[Said], options: SubtitleOptions) -> int:
    """How many units of the run the next part takes."""
    most = _most(run, options)
    if most == len(run):
        return most
    full = width(_text(run[:most]))
    best, count = float("-inf"), most
    for number in range(1, most + 1):
        value = width(_text(run[:number])) / full + _worth(run, number, options)
        if value >= best:
            best, count = value, number
    return count


def _most(run: Sequence[Said], options: SubtitleOptions) -> int:
    """How many units fit into a cue, 1 at least."""
    most, columns = 1, width(run[0].text)
    for number in range(2, len(run) + 1):
        columns += width(run[number - 1].text)
        is_wide = columns > options.max_lines * options.max_columns + 1
        if is_wide or run[number - 1].end_s - run[0].start_s > options.max_s:
            break
        most = number
    while most > 1 and len(lines_of(_text(run[:most]), options)) > options.max_lines:
        most -= 1
    return most


def _worth(run: Sequence[Said], number: int, options: SubtitleOptions) -> float:
    """Of ending a part behind so many units, while more follow."""
    last, following = run[number - 1], run[number]
    worth = 0.0
    if following.start_s - last.end_s >= _PAUSE_S:
        worth = _AFTER_PAUSE
    if _CLAUSE.search(last.text):
        worth = max(worth, _AFTER_CLAUSE)
    if _SENTENCE.search(last.text):
        worth = _AFTER_SENTENCE
    if following.start_s - run[0].start_s < options.min_s:
        worth += _TOO_SHORT
    if run[-1].end_s - following.start_s < options.min_s:
        worth += _TOO_SHORT
    return worth


def _text(units: Sequence[Said]) -> str:
    return "".join(unit.text for unit in units).strip()


def _joined(units: Sequence[Said], options: SubtitleOptions) -> Said:
    start_s = units[0].start_s
    return Said(_text(units), start_s, min(units[-1].end_s, start_s + options.max_s))
