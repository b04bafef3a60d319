"""Chinese and Japanese numbers and scripts: one spelling for what sounds the same.

As on the public leaderboards, digits are written out by wetext ("2007年" is 二零零七年), so a sign,
a decimal point or a percent sign lost is an error. Behind it stand the readings that wetext keeps
apart although they are the same number: 两/二, 块/元, 三十六度五, 点半, 百分之百.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

_BRACKETED = re.compile(r"[<\[【][^>\]】]*[>\]】]")  # [noise], <unk>: marks, not words
_FRACTION = re.compile(r"(\d?)([¼-¾⅐-⅞])")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff〇"
_SPACE_AT_HAN = re.compile(f"(?<=[{_HAN}])\\s+|\\s+(?=[{_HAN}])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_HYPHEN_IN_NAME = re.compile(r"(?<=[a-z])-(?=[a-z0-9])")  # covid-19 is not "minus 19"
_NUMERAL = "零一二三四五六七八九十百千万亿"
_ONE_DIGIT = "[一二三四五六七八九]"
_READINGS = (
    (re.compile("〇"), "零"),
    (re.compile("两"), "二"),
    (re.compile("幺"), "一"),
    (re.compile(f"零下(?=[{_NUMERAL}])"), "负"),
    (re.compile("百分之百"), "百分之一百"),
    (re.compile(f"(?<=[{_NUMERAL}])块钱"), "元"),
    (re.compile(f"(?<=[{_NUMERAL}])块({_ONE_DIGIT})(?![{_NUMERAL}])"), r"点\1元"),
    (re.compile(f"(?<=[{_NUMERAL}])块"), "元"),
    (re.compile(f"(?<=[{_NUMERAL}])度({_ONE_DIGIT})(?![{_NUMERAL}])"), r"点\1度"),
    (re.compile(f"(?<=[{_NUMERAL}])点半"), "点三十分"),
)


def normalize_chinese(text: str) -> str:
    """Half-width, simplified, numbers written out; punctuation is left to the caller."""
    text = _SPACE_AT_HAN.sub("", _to_simplified()(_plain(text)))
    text = _written_out("zh", _HYPHEN_IN_NAME.sub(" ", _THOUSANDS.sub("", text)))
    for pattern, replacement in _READINGS:
        text = pattern.sub(replacement, text)
    return text


def normalize_japanese(text: str) -> str:
    """Half-width, numbers written out: 20人 and 二十人 are equal."""
    text = _SPACE_AT_HAN.sub("", _plain(text))
    return _written_out("ja", _THOUSANDS.sub("", text)).replace("〇", "零")


def _written_out(language: str, text: str) -> str:
    """Digits as words; wetext takes milliseconds, so texts without any digit are spared it."""
    return _wetext(language)(text) if any(char.isdigit() for char in text) else text


def _plain(text: str) -> str:
    text = _FRACTION.sub(_split_fraction, text)
    text = unicodedata.normalize("NFKC", text).lower()
    return _BRACKETED.sub("", text).replace("(", " ").replace(")", " ")


def _split_fraction(match: re.Match[str]) -> str:
    """¾ as 3/4, apart from a digit before it."""
    fraction = unicodedata.normalize("NFKC", match[2]).replace("⁄", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction


@cache
def _to_simplified() -> Callable[[str], str]:
    import opencc

    convert: Callable[[str], str] = opencc.OpenCC("t2s").convert
    return convert


@cache
def _wetext(language: str) -> Callable[[str], str]:
    from wetext import Normalizer

    normalizer: Callable[[str], str] = Normalizer(lang=language, operator="tn").normalize
    return normalizer
