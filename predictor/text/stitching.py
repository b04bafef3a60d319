"""Two pieces of speech that had to be cut where nobody pauses, as one text again.

Both have heard the time about the cut, so every word there is whole in one of them. Their texts are
laid over each other where they agree best, and joined in the middle of that; what else each says
beyond it, a word that its end cut in two, is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from predictor.types import Word

# A word, or one kana or ideograph.
_UNIT: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u9fff]+(?:['’][^\W_]+)*"
)
_NEAR: Final = 24  # words, or ideographs, that two seconds of speech may have, and some more
_SAME: Final = 2.0  # a word that both have, and a little for each of its letters
_LETTER: Final = 0.1
_OTHER: Final = -1.0  # a word that one has heard otherwise, or not at all


@dataclass(frozen=True, slots=True)
class Stitched:
    """What is left of each text: `before[:end]` and a mark behind it, and `after[start:]`."""

    before: str
    after: str
    end: int
    start: int


def stitch(before: str, after: str, share_before: float, share_after: float) -> Stitched:
    """Two texts without what both say, or one says wrongly, about the cut between them.

    `share_before`: of the first piece, behind the cut; `share_after`: of the second, before it.
    They decide where the texts have nothing in common.
    """
    left, right = _units(before), _units(after)
    if not left or not right:
        return Stitched(before, after, len(before), 0)
    first = max(0, len(left) - _NEAR)
    same = _common(left[first:], right[:_NEAR])
    if same:
        middle = same[(len(same) - 1) // 2]
        num_left, num_right = first + middle[0] + 1, middle[1] + 1
    else:
        num_left = round(len(left) * (1 - share_before))
        num_right = round(len(right) * share_after)
    end = left[num_left - 1].end if num_left else 0
    start = right[num_right].start if num_right < len(right) else len(after)
    # The marks about the cut are those of who heard what follows it.
    mark = after[right[num_right - 1].end : start].strip() if num_right and end else ""
    return Stitched(before[:end] + mark, after[start:], end, start)


def words_within(text: str, words: Iterable[Word], start: int, end: int) -> tuple[Word, ...]:
    """Those of the words of `text` that lie in [start, end)."""
    kept, after = [], 0
    for word in words:
        found = text.find(word.text, after)
        if found < 0:
            continue
        after = found + len(word.text)
        if start <= found < end:
            kept.append(word)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Unit:
    word: str  # without case
    start: int
    end: int


def _units(text: str) -> list[_Unit]:
    return [_Unit(m[0].casefold(), *m.span()) for m in _UNIT.finditer(text)]


def _common(tail: Sequence[_Unit], head: Sequence[_Unit]) -> list[tuple[int, int]]:
    """Words that both have, in order, where the end of one text lies over the start of the other
    as well as it can; none where it lies nowhere."""
    rows, columns = len(tail) + 1, len(head) + 1
    score = [[0.0] * columns for _ in range(rows)]
    score[0] = [_OTHER * column for column in range(columns)]
    for row in range(1, rows):
        for column in range(1, columns):
            score[row][column] = max(
                score[row - 1][column - 1] + _worth(tail[row - 1], head[column - 1]),
                score[row - 1][column] + _OTHER,
                score[row][column - 1] + _OTHER,
            )
    row, column = rows - 1, max(range(columns), key=lambda j: score[-1][j])
    same = []
    while row and column:
        worth = _worth(tail[row - 1], head[column - 1])
        if score[row][column] == score[row - 1][column - 1] + worth:
            row, column = row - 1, column - 1
            if worth > 0:
                same.append((row, column))
        elif score[row][column] == score[row - 1][column] + _OTHER:
            row -= 1
        else:
            column -= 1
    return same[::-1]


def _worth(one: _Unit, other: _Unit) -> float:
    return _SAME + _LETTER * len(one.word) if one.word == other.word else _OTHER
