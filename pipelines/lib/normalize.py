"""How texts are made comparable before they are aligned, and in which units they are counted.

English as the open ASR leaderboard compares it, Chinese and Cantonese by wetext as on the public
leaderboards, every other language through Whisper's basic normaliser once free choices of spelling
are taken away. Languages without word spaces are counted in characters (CER), recordings in several
languages in characters of the unspaced scripts and words of the others (mixed error rate), the rest
in words. Another normaliser is chosen by name, or by "module:function" for one's own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from enum import StrEnum
from functools import cache, lru_cache
from importlib import import_module

from pipelines.lib.errors import OptionError
from pipelines.lib.manifest import MIXED_JOINER
from pipelines.lib.normalize_english import normalize_english
from pipelines.lib.normalize_han import normalize_chinese, normalize_japanese
from pipelines.lib.normalize_scripts import one_spelling

DEFAULT = "default"
MAX_REMEMBERED = 50_000


class Metric(StrEnum):
    """The unit that errors are counted in."""

    WER = "wer"  # words
    CER = "cer"  # characters
    MER = "mer"  # words, but characters of scripts written without spaces


CER_LANGUAGES = frozenset({"Chinese", "Cantonese", "Japanese", "Korean", "Thai"})
HAN_LANGUAGES = frozenset({"Chinese", "Cantonese"})
# Combining marks carry vowels here; Whisper's default would cut words at them.
MARK_LANGUAGES = frozenset({"Hindi", "Thai"})

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
_SPACED_MARKS = re.compile(r"([^\w\s'-])")


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


def normalize(text: str, language: str | None, normalizer: str = DEFAULT) -> str:
    """The text as it is compared; single spaces, none at the ends.

    `normalizer` is one of NORMALIZERS or "module:function" (text, language) -> text. Raises
    OptionError when there is no such one.
    """
    return _normalized(text, language, normalizer)


@lru_cache(maxsize=MAX_REMEMBERED)  # two versions and every page need the same references
def _normalized(text: str, language: str | None, normalizer: str) -> str:
    return " ".join(_chosen(normalizer)(text, language).split())


@cache
def _basic(*, marks: bool) -> Callable[[str], str]:
    from whisper_normalizer.basic import BasicTextNormalizer

    normalizer: Callable[[str], str] = BasicTextNormalizer(preserve_marks=marks)
    return normalizer


def _default(text: str, language: str | None) -> str:
    text = one_spelling(text, language)
    spoken = set() if language is None else set(language.split(MIXED_JOINER))
    if spoken & HAN_LANGUAGES:
        return _basic(marks=len(spoken) > 1)(normalize_chinese(text))
    if language == "Japanese":
        return _basic(marks=True)(normalize_japanese(text))
    if language == "English":
        return normalize_english(text)
    return _basic(marks=language in MARK_LANGUAGES or len(spoken) > 1)(text)


def _whisper(text: str, language: str | None) -> str:
    """Whisper's own, nothing before it: for numbers to stand beside published ones."""
    from whisper_normalizer.english import EnglishTextNormalizer

    if language == "English":
        normalized: str = EnglishTextNormalizer()(text)
        return normalized
    return _basic(marks=False)(text)


def _case_and_punctuation(text: str, _language: str | None) -> str:
    """Only Unicode's own equalities and spaces: case and punctuation count."""
    return _SPACED_MARKS.sub(r" \1 ", unicodedata.normalize("NFKC", text))


Normalizer = Callable[[str, str | None], str]
NORMALIZERS: dict[str, Normalizer] = {
    DEFAULT: _default,
    "whisper": _whisper,
    "basic": lambda text, language: _basic(marks=language in MARK_LANGUAGES)(text),
    "none": _case_and_punctuation,
}


@cache
def _chosen(name: str) -> Normalizer:
    if name in NORMALIZERS:
        return NORMALIZERS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise OptionError(
            f"normalizer: {name!r} is not one of {', '.join(NORMALIZERS)} nor module:function"
        )
    try:
        found: Normalizer = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"normalizer: {name!r} cannot be imported: {error}") from error
    return found


def units(normalized: str, metric: Metric) -> list[str]:
    """The words or characters that an alignment runs over; none holds a space."""
    if metric is Metric.WER:
        return normalized.split()
    if metric is Metric.CER:
        return [char for char in normalized if not char.isspace()]
    return _MIXED_UNIT.findall(normalized)
