"""How a request asks to be heard, the same in every protocol: channel, track, and how it is cut."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, get_args

from predictor.api.json_numbers import whole_number
from predictor.audio.limits import Channel, Hearing, Vad, channel_of
from predictor.errors import InvalidInput

# Numbers by the name of the setting that each stands in for, with the least and the most.
NUMBERS: Final[dict[str, tuple[float, float]]] = {
    "segment_s": (2, 1200),
    "vad_threshold": (0.01, 0.99),
    "vad_margin_s": (0, 5),
    "vad_min_speech_s": (0, 5),
    "vad_min_silence_s": (0.05, 30),
}
HEARING_FIELDS: Final = ("channel", "track", "vad", *NUMBERS)
_MAX_TRACK: Final = 63


def read_hearing(fields: Mapping[str, Any]) -> Hearing:
    """From form fields, query parameters or JSON: text, or numbers. Raises InvalidInput."""
    numbers = {
        name.removeprefix("vad_"): read_number(fields, name, *bounds)
        for name, bounds in NUMBERS.items()
    }
    return Hearing(
        _channel(_text(fields, "channel")),
        _track(_text(fields, "track")),
        _vad(_text(fields, "vad")),
        **numbers,
    )


def read_number(fields: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    """A number from `low` to `high`, or None where there is none. Raises InvalidInput."""
    value = fields.get(name)
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = float(value)
        except ValueError:
            value = math.nan
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        shown = str(fields[name])
        raise _refused(name, shown, f"a number from {low:g} to {high:g}")
    return float(value)


def _text(fields: Mapping[str, Any], name: str) -> str:
    """The value in text; "" for none, which is as if it were not there."""
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    number = whole_number(value)
    if number is None:
        raise _refused(name, repr(value), "text or a whole number")
    return str(number)


def _channel(text: str) -> Channel | None:
    if not text:
        return None
    try:
        return channel_of(text.lower())
    except ValueError as error:
        raise _refused("channel", text, "mix, separate or a channel's number from 0") from error


def _track(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= _MAX_TRACK):
        raise _refused("track", text, f"an audio track's number from 0 to {_MAX_TRACK}")
    return int(text)


def _vad(text: str) -> Vad | None:
    if not text:
        return None
    for known in get_args(Vad):
        if text.lower() == known:
            found: Vad = known
            return found
    raise _refused("vad", text, ", ".join(get_args(Vad)))


def _refused(name: str, value: str, limit: str) -> InvalidInput:
    return InvalidInput(
        f"{name}: {value[:60]!r} is not valid, expected: {limit}",
        field=name,
        value=value[:60],
        limit=limit,
    )
