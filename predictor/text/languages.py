"""The 30 languages the model knows, and how callers may name them.

The model was trained on the full English names ("language Chinese<asr_text>"); callers send names,
English or native, codes of ISO 639-1 to 639-3, or tags such as "zh-CN", in any case.
"""

from __future__ import annotations

import unicodedata
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

# Further names and codes; three-letter codes of ISO 639-2 (both kinds) and 639-3, native names, and
# codes of countries that are taken for a language's where no language has such a code (jp, cn, kr).
_FURTHER = {
    "Arabic": "ara arb العربية",
    "Cantonese": "廣東話 广东话 粵語 粤语 粵文 zh-yue chinese-(cantonese)",
    "Chinese": "zho chi cmn cn mandarin 中文 汉语 漢語 普通话 普通話 国语 國語 华语 華語 "
    "simplified-chinese traditional-chinese chinese-(simplified) chinese-(traditional) "
    "chinese-(mandarin) mandarin-chinese 简体中文 繁體中文 繁体中文 简体 繁體",
    "Czech": "ces cze cz čeština česky",
    "Danish": "dan dansk",
    "Dutch": "nld dut nederlands flemish vlaams",
    "English": "eng",
    "Filipino": "tl tgl tagalog pilipino",
    "Finnish": "fin suomi",
    "French": "fra fre français",
    "German": "deu ger deutsch",
    "Greek": "ell gre gr ελληνικά",
    "Hindi": "hin हिन्दी हिंदी",
    "Hungarian": "hun magyar",
    "Indonesian": "ind in indonesia bahasa-indonesia",
    "Italian": "ita italiano",
    "Japanese": "jpn jp 日本語 日本语",
    "Korean": "kor kr 한국어",
    "Macedonian": "mkd mac македонски",
    "Malay": "msa may zsm melayu bahasa-melayu",
    "Persian": "fas per pes farsi فارسی",
    "Polish": "pol polski",
    "Portuguese": "por português",
    "Romanian": "ron rum mo română moldavian moldovan",
    "Russian": "rus русский",
    "Spanish": "spa español castellano castilian",
    "Swedish": "swe svenska",
    "Thai": "tha ไทย ภาษาไทย",
    "Turkish": "tur türkçe",
    "Vietnamese": "vie vn tiếng-việt việt",
}
_CANTONESE_SUBTAGS = frozenset({"yue", "hk", "mo"})  # of Chinese: spoken in Hong Kong and Macao
_CHINESE_CODES = frozenset({"zh", "zho", "chi"})

# What clients send for "none said"; `und` is undetermined in ISO 639-2.
_DETECT = frozenset({"", "auto", "automatic", "detect", "none", "null", "und"})
_MAX_ECHO_CHARS = 40
_MAX_KEY_CHARS = 64

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
    """The canonical name ("English") of a name, code or tag; None for None, "", "auto" and such.

    Raises InvalidInput naming `field`, the value and the choices.
    """
    if value is None:
        return None
    key = _key(value)
    if key in _DETECT:
        return None
    name = _BY_KEY.get(key.replace(" ", "-")) or _of_tag(key)
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


def _of_tag(key: str) -> str | None:
    """The language of a tag such as "zh-hant-hk", by its first part and what that part means."""
    primary, *subtags = key.split("-")
    if primary in _CHINESE_CODES and _CANTONESE_SUBTAGS.intersection(subtags):
        return "Cantonese"
    return _BY_KEY.get(primary)


def _key(text: str) -> str:
    """Case, accents' encoding, and the kind of space or dash do not matter."""
    text = unicodedata.normalize("NFC", text[:_MAX_KEY_CHARS]).lower().replace("_", "-")
    return " ".join(text.split())


_BY_KEY = (
    dict(LANGUAGES)
    | {name.lower(): name for name in LANGUAGES.values()}
    | {_key(key): name for name, keys in _FURTHER.items() for key in keys.split()}
)


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
