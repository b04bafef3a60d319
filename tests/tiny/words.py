"""Words as a forced aligner reads them, by the rules of Qwen3-ASR's processor."""

from __future__ import annotations

import unicodedata


def clean_word(word: str) -> str:
    """Letters, digits and apostrophes of a word; empty when it has none."""
    return "".join(c for c in word if c == "'" or unicodedata.category(c)[0] in "LN")
