"""How one setting is declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spec:
    """How one setting is read and described; its name and default are those of the field."""

    kind: type
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    none: str | None = None  # the word that stands for None, for settings that may be None
    env: tuple[str, ...] = ()  # further environment variables, after the prefixed one
    file_key: str | None = None  # the key in the file, when it is not the name
    is_secret: bool = False  # environment only, never shown
    may_be_number: bool = False  # text, for which the file may have a whole number


def setting(default: Any, help: str, *, kind: type | None = None, **more: Any) -> Any:  # noqa: A002
    """A dataclass field; `more` are fields of its Spec."""
    spec = Spec(kind=kind or type(default), help=help, **more)
    return field(default=default, repr=not spec.is_secret, metadata={"spec": spec})
