"""Words with their times: how they are asked for, and how every protocol says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from predictor.errors import InvalidInput
from predictor.types import Word

WORDS_FIELD: Final = "words"


def read_words(fields: Mapping[str, Any]) -> bool:
    """Whether words were asked for: true or false, or their names. Raises InvalidInput."""
    value = fields.get(WORDS_FIELD)
    if value is None or value == "":
        return False
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise InvalidInput(
        f"words: {str(value)[:60]!r} is not valid, expected: true or false",
        field=WORDS_FIELD,
        value=str(value)[:60],
        limit="true or false",
    )


def words_json(words: Sequence[Word]) -> list[dict[str, Any]]:
    """As OpenAI has them, and the confidence of those that were recognised."""
    return [
        {
            "word": word.text,
            "start": word.start_s,
            "end": word.end_s,
            **({} if word.confidence is None else {"confidence": word.confidence}),
        }
        for word in words
    ]
