"""The 30 languages the model knows, and how callers may name them.

The model was trained on the full English names ("language Chinese<asr_text>"); callers send names,
codes or tags such as "zh-CN", in any case.
"""

from __future__ import annotations

from types import MappingProxyType

from predictor.errors import InvalidInput

LANGUAGES = MappingProxyType(
    {
        "ar": "Arabic",
        "yue": "Cantonese",
        "zh": "Chinese",
        "cs": "Czech",
        "da": "Danish",
        "nl": "Dutch",
        "en": "English",
        "fil": "Filipino",
        "fi": "Finnish",
        "fr": "French",
        "de": "German",
        "el": "Greek",
        "hi": "Hindi",
        "hu": "Hungarian",
        "id": "Indonesian",
        "it": "Italian",
        "ja": "Japanese",
        "ko": "Korean",
        "mk": "Macedonian",
        "ms": "Malay",
        "fa": "Persian",
        "pl": "Polish",
        "pt": "Portuguese",
        "ro": "Romanian",
        "ru": "Russian",
        "es": "Spanish",
        "sv": "Swedish",
        "th": "Thai",
        "tr": "Turkish",
        "vi": "Vietnamese",
    }
)  # code -> name
CODES = MappingProxyType({name: code for code, name in LANGUAGES.items()})  # name -> code

_BY_KEY = dict(LANGUAGES) | {name.lower(): name for name in LANGUAGES.values()}
_DETECT = ("", "auto")
_MAX_ECHO_CHARS = 40

# Scripts written without spaces between sentences: ideographs, kana, and their punctuation.
_UNSPACED_RANGES = (
    (0x2E80, 0x303F),  # radicals, CJK punctuation
    (0x3040, 0x30FF),  # hiragana, katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF00, 0xFFEF),  # full-width forms
    (0x20000, 0x3134F),
)


def parse_language(value: str | None, *, field: str = "language") -> str | None:
    """The canonical name ("English") of a name, code or tag; None for None, "" and "auto".

    Raises InvalidInput naming `field`, the value and the choices.
    """
    if value is None:
        return None
    key = value.strip().lower()
    if key in _DETECT:
        return None
    name = _BY_KEY.get(key) or _BY_KEY.get(key.replace("_", "-").split("-", 1)[0])
    if name is None:
        shown = value[:_MAX_ECHO_CHARS]
        raise InvalidInput(
            f"{field}: unknown language {shown!r}, choose one of "
            + ", ".join(f"{code} ({name})" for code, name in LANGUAGES.items())
            + ', or "auto"',
            field=field,
            value=shown,
            limit=list(LANGUAGES),
        )
    return name


def needs_space(left: str, right: str) -> bool:
    """Whether a space belongs between two pieces of transcript that follow each other."""
    if not left or not right or left[-1].isspace() or right[0].isspace():
        return False
    return not (is_unspaced(left[-1]) or is_unspaced(right[0]))


def join_texts(texts: list[str]) -> str:
    """One text from the texts of consecutive pieces; no space next to CJK characters."""
    joined = ""
    for text in texts:
        if needs_space(joined, text):
            joined += " "
        joined += text
    return joined


def is_unspaced(char: str) -> bool:
    """Whether `char` is of a script that puts no spaces between words, or its punctuation."""
    point = ord(char)
    return any(low <= point <= high for low, high in _UNSPACED_RANGES)
