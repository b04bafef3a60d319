"""Text in the lines of a cue: how wide it is, and where a line may end."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class SubtitleOptions:
    """What a reader can follow."""

    max_columns: int = 42  # of one line; a wide character (Chinese, Japanese, Korean) takes two
    max_wide_columns: int = 36  # of one line that has wide characters: 18 of them
    max_lines: int = 2
    min_s: float = 1.0  # shorter cues are shown longer where nothing follows
    max_s: float = 7.0
    max_gap_s: float = 1.0  # without a word, inside a cue
    max_columns_per_s: float = 20.0  # a fast reader's; cues are shown longer where nothing follows


USUAL: Final = SubtitleOptions()

# What a line may be broken behind: a word with its space, a wide character with the marks that may
# not begin a line.
_WIDE = "⺀-〇〡-鿿가-힣豈-﫿"
_MARKS = "，。！？、；：）」』”’"
_NO_COLUMN = ("Mn", "Me", "Cf")
_WORDS = re.compile(f"[{_WIDE}][{_MARKS}]*\\s*|[^\\s{_WIDE}]+\\s*|\\s+")


def lines_of(text: str, options: SubtitleOptions) -> list[str]:
    """`text` on as few lines as it needs, of about the same width, broken at spaces and between
    wide characters."""
    limit = options.max_wide_columns if has_wide(text) else options.max_columns
    columns = width(text)
    if columns <= limit:
        return [text]
    count = -(-columns // limit)
    balanced = _wrapped(text, max(-(-columns // count) + 2, 1))
    if len(balanced) <= count and all(width(line) <= limit for line in balanced):
        return balanced
    return _wrapped(text, limit)


def _wrapped(text: str, limit: int) -> list[str]:
    lines = [""]
    for word in (part for found in _WORDS.findall(text) for part in _broken(found, limit)):
        line = lines[-1] + word
        if width(line.rstrip()) <= limit or not lines[-1]:
            lines[-1] = line
        else:
            lines.append(word)
    return [line.strip() for line in lines]


def _broken(word: str, limit: int) -> Iterator[str]:
    """A word that is wider than a line, by characters."""
    while width(word.rstrip()) > limit:
        size = max(1, limit // 2 if has_wide(word) else limit)
        while size < len(word) and unicodedata.combining(word[size]):
            size += 1
        yield word[:size]
        word = word[size:]
    yield word


def has_wide(text: str) -> bool:
    """Whether there is a character in it that takes two columns."""
    return any(unicodedata.east_asian_width(char) in "WF" for char in text)


def width(text: str) -> int:
    """Columns that `text` takes: none for marks above and below letters, and for what only says
    how others are written, such as the direction of a line."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(char) in _NO_COLUMN
        else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )
