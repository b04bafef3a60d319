"""The settings on their way to a process of ours, which must not read them a second time."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from predictor.settings.fields import Settings, specs


def to_json(settings: Settings) -> dict[str, Any]:
    """Plain values, secrets among them."""
    values = {name: getattr(settings, name) for name in specs()}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def from_json(values: dict[str, Any]) -> Settings:
    """The twin of `to_json`; where a value came from and the notes are not sent along."""
    read = {}
    for name, (spec, _) in specs().items():
        value = values[name]
        is_given = value is not None and spec.kind in (Path, tuple)
        read[name] = spec.kind(value) if is_given else value
    return Settings(**read, sources=MappingProxyType({}))
