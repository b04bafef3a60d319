"""How texts are made comparable before they are aligned, and in which units they are counted.

English goes through Whisper's normaliser as on the public leaderboard, Chinese and Cantonese
through width, script and numeral conversion, every other language through Whisper's basic one.
Languages without word spaces are counted in characters (CER), recordings in several languages in
characters of the unspaced scripts and words of the others (mixed error rate), the rest in words.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable
from enum import StrEnum
from functools import cache

from pipelines.lib.manifest import MIXED_JOINER


class Metric(StrEnum):
    """The unit that errors are counted in."""

    WER = "wer"  # words
    CER = "cer"  # characters
    MER = "mer"  # words, but characters of scripts written without spaces


CER_LANGUAGES = frozenset({"Chinese", "Cantonese", "Japanese", "Korean", "Thai"})
HAN_LANGUAGES = frozenset({"Chinese", "Cantonese"})
# Combining marks carry vowels here; Whisper's default would cut words at them.
MARK_LANGUAGES = frozenset({"Hindi", "Thai"})
# Vowel points are optional in writing here, so they go on both sides.
POINTED_LANGUAGES = frozenset({"Arabic", "Persian"})

_UNSPACED = (
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0e7f"
    "\U00020000-\U0003134f"
)
_MIXED_UNIT = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_SCRIPTS = (
    (re.compile("[\u3040-\u30ff]"), "Japanese"),  # before Chinese: Japanese has ideographs too
    (re.compile("[\uac00-\ud7af]"), "Korean"),
    (re.compile("[\u0e00-\u0e7f]"), "Thai"),
    (re.compile("[\u3400-\u4dbf\u4e00-\u9fff]"), "Chinese"),
)
_BRACKETED = re.compile(r"[<\[【][^>\]】]*[>\]】]")  # [noise], <unk>: marks, not words


def guess_language(text: str) -> str | None:
    """A language to normalise by, from the script alone, for references that do not say theirs."""
    for pattern, language in _SCRIPTS:
        if pattern.search(text):
            return language
    return None


def metric_for(language: str | None) -> Metric:
    """The metric of a language's canonical name; None counts words."""
    if language is not None and MIXED_JOINER in language:
        return Metric.MER
    return Metric.CER if language in CER_LANGUAGES else Metric.WER


def normalize(text: str, language: str | None) -> str:
    """The text as it is compared; single spaces, none at the ends."""
    if language is not None and MIXED_JOINER in language:
        normalized = _basic(marks=True)(_numerals(_han(text)))
    elif language == "English":
        normalized = _english()(text)
    elif language in HAN_LANGUAGES:
        normalized = _basic(marks=False)(_numerals(_han(text)))
    elif language in POINTED_LANGUAGES:
        normalized = _basic(marks=False)(_without_points(text))
    else:
        normalized = _basic(marks=language in MARK_LANGUAGES)(text)
    return " ".join(normalized.split())


def units(normalized: str, metric: Metric) -> list[str]:
    """The words or characters that an alignment runs over; none holds a space."""
    if metric is Metric.WER:
        return normalized.split()
    if metric is Metric.CER:
        return [char for char in normalized if not char.isspace()]
    return _MIXED_UNIT.findall(normalized)


@cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer()
    return normalizer


@cache
def _basic(*, marks: bool) -> Callable[[str], str]:
    from whisper_normalizer.basic import BasicTextNormalizer

    normalizer: Callable[[str], str] = BasicTextNormalizer(preserve_marks=marks)
    return normalizer


@cache
def _to_simplified() -> Callable[[str], str]:
    import opencc

    convert: Callable[[str], str] = opencc.OpenCC("t2s").convert
    return convert


def _han(text: str) -> str:
    """Half-width, simplified characters, marks in brackets gone; words in parentheses stay."""
    narrow = _BRACKETED.sub("", unicodedata.normalize("NFKC", text))
    return _to_simplified()(narrow.replace("(", " ").replace(")", " "))


def _numerals(text: str) -> str:
    """Chinese numerals to digits: 一百二十三 and 123, 二零二三年 and 2023年 compare equal."""
    from cn2an import transform

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what is no number and leaves it as it is
        converted: str = transform(text, "cn2an")
    return converted


def _without_points(text: str) -> str:
    decomposed = unicodedata.normalize("NFKC", text)
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
