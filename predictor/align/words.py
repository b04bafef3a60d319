"""Text as a forced aligner reads it, and times made monotonic, by the model's authors' rules."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from predictor.errors import InvalidInput

LANGUAGES = (
    "Cantonese", "Chinese", "English", "French", "German", "Italian", "Japanese", "Korean",
    "Portuguese", "Russian", "Spanish",
)  # fmt: skip
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
_MAX_SNAPPED = 2  # outliers in a row that take a neighbour's time; more are spread evenly


def split_words(text: str, language: str | None) -> list[str]:
    """Words without punctuation; ideographs one by one. InvalidInput without a needed package.

    Japanese and Korean are split by the packages that the model's authors use.
    """
    text = text.strip()
    if language == "Japanese":
        return _cleaned(_nagisa(text))
    if language == "Korean":
        return _cleaned(_soynlp(text))
    words: list[str] = []
    for part in text.split():
        word = ""
        for char in part:
            if _is_ideograph(char):
                words += [word, char]
                word = ""
            elif _is_kept(char):
                word += char
        words.append(word)
    return [word for word in words if word]


def places_of(words: Sequence[str], text: str) -> list[tuple[int, int]]:
    """(start, end) of each word in the text it was split from; (0, 0) for one that is not there."""
    places: list[tuple[int, int]] = []
    after = 0
    for word in words:
        start, at = -1, after
        for char in word:
            found = text.find(char, at)
            if found < 0:
                break
            start, at = (found if start < 0 else start), found + 1
        else:
            places.append((start, at))
            after = at
            continue
        places.append((0, 0))
    return places


def monotonic(times: Sequence[float]) -> list[float]:
    """Times that never go back: those off the longest rising run are snapped or spread.

    Equal to `_fix_timestamps` of transformers' processor, in O(n log n).
    """
    kept = _longest_rising(times)
    result = list(times)
    for before, after in zip([-1, *kept], [*kept, len(result)], strict=True):
        num_wrong = after - before - 1
        if num_wrong == 0:
            continue
        left = result[before] if before >= 0 else None
        right = result[after] if after < len(result) else None
        for i in range(before + 1, after):
            result[i] = _repaired(left, right, i - before, num_wrong)
    return result


def _repaired(left: float | None, right: float | None, place: int, num_wrong: int) -> float:
    """The time of the `place`-th (from 1) of so many outliers between two good times."""
    if left is None or right is None:
        good = right if left is None else left
        assert good is not None
        return good
    if num_wrong <= _MAX_SNAPPED:
        return left if place <= num_wrong + 1 - place else right
    return left + (right - left) / (num_wrong + 1) * place


def _longest_rising(times: Sequence[float]) -> list[int]:
    """Indices of the longest subsequence that never falls; of equals, the one that ends first.

    Chains are built as the reference builds them: each time follows the earliest one that gives it
    the longest chain.
    """
    size = len(times)
    lengths, parents = [1] * size, [-1] * size
    tails: list[float] = []  # the least end of a chain of each length
    by_length: list[list[int]] = []  # indices with a chain of each length, in order
    for i, time in enumerate(times):
        length = bisect_right(tails, time)
        if length == len(tails):
            tails.append(time)
            by_length.append([])
        else:
            tails[length] = time
        lengths[i] = length + 1
        by_length[length].append(i)
        if length:
            shorter = by_length[length - 1]  # their times fall
            parents[i] = shorter[bisect_left(shorter, -time, key=lambda j: -times[j])]
    if not size:
        return []
    i = lengths.index(max(lengths))
    chain = []
    while i >= 0:
        chain.append(i)
        i = parents[i]
    return chain[::-1]


def _is_ideograph(char: str) -> bool:
    code = ord(char)
    return any(first <= code <= last for first, last in _IDEOGRAPHS)


def _is_kept(char: str) -> bool:
    return char == "'" or unicodedata.category(char)[0] in "LN" or _is_ideograph(char)


def _cleaned(words: Sequence[str]) -> list[str]:
    kept = ("".join(char for char in word if _is_kept(char)) for word in words)
    return [word for word in kept if word]


def _nagisa(text: str) -> list[str]:
    try:
        import nagisa
    except ImportError:
        raise _missing("Japanese", "nagisa") from None
    return list(nagisa.tagging(text).words)


def _soynlp(text: str) -> list[str]:
    try:
        from soynlp.tokenizer import LTokenizer
    except ImportError:
        raise _missing("Korean", "soynlp") from None
    return list(LTokenizer().tokenize(text))


def _missing(language: str, package: str) -> InvalidInput:
    return InvalidInput(
        f"word times in {language} need the package {package}, which this server does not have "
        "(the extra `cjk`)",
        field="language",
        value=language,
        limit="a language that is split without it",
    )
