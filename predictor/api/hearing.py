"""How a request asks to be heard: `channel`, `track` and `vad`, the same in every protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from predictor.audio.limits import Channel, Vad, channel_of
from predictor.errors import InvalidInput

HEARING_FIELDS: Final = ("channel", "track", "vad")
_MAX_TRACK: Final = 63


@dataclass(frozen=True, slots=True)
class Hearing:
    """What was asked for; None = as the server's settings say."""

    channel: Channel | None = None
    track: int | None = None
    vad: Vad | None = None


def read_hearing(fields: Mapping[str, Any]) -> Hearing:
    """From form fields, query parameters or JSON: text, or whole numbers. Raises InvalidInput."""
    return Hearing(
        _channel(_text(fields, "channel")),
        _track(_text(fields, "track")),
        _vad(_text(fields, "vad")),
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    """The value in text; "" for none, which is as if it were not there."""
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return "" if value is None else str(value)
    if not isinstance(value, str):
        raise _refused(name, repr(value), "text or a whole number")
    return value.strip()


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
