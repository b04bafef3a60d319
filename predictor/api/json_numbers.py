"""Whole numbers as JSON writes them: 16000 and 16000.0 are the same number there."""

from __future__ import annotations


def whole_number(value: object) -> int | None:
    """`value` as an int; None for anything else, `true` and fractions among them."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
