"""The settings in words: the README's table, --help, and what is logged at start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from predictor.settings.fields import ENV_PREFIX, Settings, specs
from predictor.settings.parse import expected
from predictor.settings.spec import Spec

TABLE_BEGIN: Final = "<!-- settings:begin -->"
TABLE_END: Final = "<!-- settings:end -->"


def markdown_table() -> str:
    """The table between the README's markers, a row for each setting."""
    lines = [
        "| Setting | Default | Values | Meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, (spec, default) in specs().items():
        lines.append(
            f"| `{name}` | {_default(spec, default)} | {_values(spec)} | {_meaning(spec)} |"
        )
    return "\n".join(lines) + "\n"


def _default(spec: Spec, default: Any) -> str:
    text = shown(spec, default)
    return f"`{text}`" if text else "none"


def _values(spec: Spec) -> str:
    if spec.choices:
        return ", ".join(f"`{choice}`" for choice in spec.choices)
    return expected(spec)


def _meaning(spec: Spec) -> str:
    others = []
    if spec.file_key:
        others.append(f"`{spec.file_key}` in the file")
    if spec.env:
        others.append("also " + ", ".join(f"`{name}`" for name in spec.env))
    if spec.is_secret:
        others.append("environment only")
    return spec.help + (f" ({'; '.join(others)})" if others else "")


def help_text() -> str:
    """What --help prints."""
    lines = [
        "usage: python -m predictor [--NAME VALUE | --NAME=VALUE] ...",
        "",
        f"Each setting is a flag --NAME, an environment variable {ENV_PREFIX}NAME (upper case)",
        "and a key of the JSON file --config_file; a flag beats the environment, that the file.",
        "",
    ]
    for name, (spec, default) in specs().items():
        head = f"{ENV_PREFIX}{name.upper()}" if spec.is_secret else f"--{name}"
        text = shown(spec, default)
        lines.append(f"  {head}")
        lines.append(f"      {_meaning(spec).replace('`', '')}")
        lines.append(f"      {expected(spec)}; default {text or 'none'}")
    return "\n".join(lines) + "\n"


def effective(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """(name, value, source) of every setting, for the log at start; secrets masked."""
    for name, (spec, _) in specs().items():
        yield name, shown(spec, getattr(settings, name)), settings.sources.get(name, "default")


def shown(spec: Spec, value: Any) -> str:
    """A value as its user would write it; of a secret only how many there are."""
    if value is None:
        return spec.none or ""
    if spec.is_secret:
        return f"({len(value)} set)" if value else ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        return f"{value:.10g}"
    return value.as_posix() if isinstance(value, Path) else str(value)
