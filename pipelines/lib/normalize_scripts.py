"""Spellings of one word that Unicode allows, by language: digits, joiners, hamza, dotted i.

Only what a writer may choose freely is made equal. Everything else, the accent of "élève" too, is
part of the word and counts.
"""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHES = re.compile("[’‘‛ʼʻ＇`´′ʹˈ]")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]")
_JOINERS = re.compile("[\u200c\u200d]")
_TATWEEL = "\u0640"
_DIGITS = {
    **{ord(digit): str(i) for i, digit in enumerate("٠١٢٣٤٥٦٧٨٩")},
    **{ord(digit): str(i) for i, digit in enumerate("۰۱۲۳۴۵۶۷۸۹")},
    **{ord(digit): str(i) for i, digit in enumerate("๐๑๒๓๔๕๖๗๘๙")},
    **{ord(digit): str(i) for i, digit in enumerate("०१२३४५६७८९")},
    ord("٪"): "%", ord("٫"): ".", ord("٬"): "",
}  # fmt: skip
_ARABIC = str.maketrans({"أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ؤ": "و", "ئ": "ي"})
_PERSIAN = str.maketrans({"ك": "ک", "ي": "ی", "ى": "ی", "ئ": "ی", "ؤ": "و", "أ": "ا", "إ": "ا",
                          "ة": "ه", "ۀ": "ه"})  # fmt: skip
_TURKISH = str.maketrans({"I": "ı", "İ": "i"})
_ROMANIAN = str.maketrans({"ş": "ș", "ţ": "ț", "Ş": "Ș", "Ţ": "Ț"})
_RUSSIAN = str.maketrans({"ё": "е", "Ё": "Е"})


def one_spelling(text: str, language: str | None) -> str:
    """The text with free choices of spelling taken away; capitals of Turkish are lowered here."""
    text = unicodedata.normalize("NFC", text)
    text = _INVISIBLE.sub("", _APOSTROPHES.sub("'", text)).translate(_DIGITS)
    if language == "Turkish":
        return text.translate(_TURKISH).lower()
    if language == "Romanian":
        return text.translate(_ROMANIAN)
    if language in ("Russian", "Macedonian"):
        return text.translate(_RUSSIAN) if language == "Russian" else text
    if language in ("Arabic", "Persian"):
        return _arabic_script(text, language)
    return text


def _arabic_script(text: str, language: str) -> str:
    """Without vowel points, tatweel and joiners; letters that differ by keyboard made one."""
    text = _JOINERS.sub("", text.replace(_TATWEEL, ""))
    text = text.translate(_PERSIAN if language == "Persian" else _ARABIC)
    decomposed = unicodedata.normalize("NFKC", text)
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
