"""One value of one setting: from text (flags, environment) or JSON (the file), checked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from predictor.settings.spec import Spec

_TRUE: Final = ("true", "1", "yes", "on")
_FALSE: Final = ("false", "0", "no", "off")


class BadValueError(ValueError):
    """The message says what would have been valid."""


def parse_text(spec: Spec, text: str) -> Any:
    """The value that `text` stands for. Raises BadValueError."""
    text = text.strip()
    if spec.none is not None and text.lower() == spec.none:
        return None
    if spec.kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise BadValueError("must be true or false" + (f" or {spec.none}" if spec.none else ""))
        return text.lower() in _TRUE
    if spec.kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if spec.kind in (int, float):
        try:
            return _in_range(spec, spec.kind(text))
        except (ValueError, OverflowError) as error:
            raise BadValueError(f"must be {expected(spec)}") from error
    return _word(spec, text)


def parse_native(spec: Spec, value: Any) -> Any:
    """The value of a JSON file, where numbers and booleans are no text. Raises BadValueError."""
    if spec.none is not None and (value is None or value == spec.none):
        return None
    if spec.kind is bool and isinstance(value, bool):
        return value
    if spec.may_be_number and type(value) is int:
        value = str(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and spec.kind in (float, type(value)):
        return _in_range(spec, spec.kind(value))
    if spec.kind in (str, Path) and isinstance(value, str):
        return _word(spec, value)
    if spec.kind is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise BadValueError(f"must be {expected(spec)}")


def expected(spec: Spec) -> str:
    """What a value may be, in words: "auto, cpu, cuda" or "a whole number from 1 to 64"."""
    if spec.choices:
        return ", ".join(spec.choices)
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        tuple: "a list",
        Path: "a path",
        str: "text",
    }
    text = words[spec.kind]
    if spec.low is not None:
        text += f" from {_plain(spec.low)} to {_plain(spec.high)}"
    return f"{text} or {spec.none}" if spec.none else text


def _plain(number: float | None) -> str:
    return "any" if number is None else f"{number:.15g}"


def _in_range(spec: Spec, value: float) -> float:
    low = -math.inf if spec.low is None else spec.low
    high = math.inf if spec.high is None else spec.high
    if not low <= value <= high:
        raise BadValueError(f"must be {expected(spec)}")
    return value


def _word(spec: Spec, text: str) -> Any:
    if spec.choices and text not in spec.choices:
        raise BadValueError(f"must be one of {expected(spec)}")
    if not text:
        raise BadValueError("must not be empty")
    return spec.kind(text)
