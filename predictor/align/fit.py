"""Whether a text belongs to a recording: what was given, against what a recogniser heard there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

# Other words in a row before it is another text: a recogniser's mistakes are shorter, or sound
# alike and so are spelled alike.
_MIN_RUN: Final = 3
_WORDS_PER_NUMBER: Final = 4  # "1984" is nineteen eighty four to others
_ALIKE: Final = 0.5  # share of letters in common, above which words are the same, spelled otherwise


@dataclass(frozen=True, slots=True)
class Misfit:
    """The first place where text and recording part."""

    at: int  # index of the given word; the number of words for the end
    given: str  # what the text has there, "" for nothing
    heard: str  # what was heard there, "" for nothing


def first_misfit(given: Sequence[str], heard: Sequence[str]) -> Misfit | None:
    """None when they belong together. Both are words without punctuation, or ideographs."""
    left, right = ([word.casefold() for word in words] for words in (given, heard))
    runs = _runs(left, right)
    for start, end, first, last in runs:
        length = max(end - start, last - first) - _spare(left[start:end], right[first:last])
        if length >= min(_MIN_RUN, len(left)) and not _is_alike(left[start:end], right[first:last]):
            return Misfit(start, _shown(given[start:end]), _shown(heard[first:last]))
    if runs and not _is_alike(left, right):
        start, end, first, last = runs[0]
        return Misfit(start, _shown(given[start:end]), _shown(heard[first:last]))
    return None


def _runs(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Stretches that differ, as (start, end) in each; one word in common within is chance."""
    runs: list[tuple[int, int, int, int]] = []
    for tag, start, end, first, last in SequenceMatcher(
        None, left, right, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        if runs and start - runs[-1][1] <= 1:
            start, first = runs[-1][0], runs[-1][2]
            runs.pop()
        runs.append((start, end, first, last))
    return runs


def _spare(left: Sequence[str], right: Sequence[str]) -> int:
    """How many words a run may be longer because numbers in it may be spelled out."""
    with_digits = sum(any(char.isdigit() for char in word) for word in (*left, *right))
    return _WORDS_PER_NUMBER * with_digits


def _is_alike(left: Sequence[str], right: Sequence[str]) -> bool:
    matcher = SequenceMatcher(None, "".join(left), "".join(right), autojunk=False)
    return matcher.ratio() >= _ALIKE


def _shown(words: Sequence[str]) -> str:
    return " ".join(words[:6])[:60]
