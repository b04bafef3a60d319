"""Reads the settings once, at start: a flag beats the environment, that the file, that the default.

Whatever is unknown or wrong stops the start, all of it in one message that names setting, value,
choices and source. `python -m predictor.settings.read` prints the table of settings for the README.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from predictor.settings.check import contradictions
from predictor.settings.doc import help_text, markdown_table
from predictor.settings.fields import ENV_PREFIX, Settings, specs
from predictor.settings.parse import BadValueError, parse_native, parse_text
from predictor.settings.parts.model import DEFAULT_MODEL_DIR
from predictor.settings.spec import Spec

__all__ = ["Settings", "SettingsError", "load_settings"]

DEFAULT_CONFIG_FILE: Final = Path("/app/config/model-config.json")
_FILE_FLAG: Final = "config_file"
# Kubernetes gives every container variables for each Service: one called qwen3-asr makes
# QWEN3_ASR_SERVICE_HOST, QWEN3_ASR_PORT, QWEN3_ASR_PORT_80_TCP_ADDR, ... and they are no settings.
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP|SCTP)")
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(Exception):
    """The start must not go on; the message names every setting that is unknown or wrong."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as one source gives it."""

    value: Any
    source: str
    parse: Callable[[Spec, Any], Any]


_Layer = dict[str, _Given]


def load_settings(
    argv: list[str], environ: Mapping[str, str], default_file: Path = DEFAULT_CONFIG_FILE
) -> Settings:
    """The settings from flags, environment and file. Raises SettingsError.

    `default_file` is read if it exists; one named by `--config_file` must exist. `--help` prints
    the flags and raises SystemExit(0).
    """
    problems: list[str] = []
    flags = _read_flags(argv, problems)
    env = _read_environment(environ, problems)
    path = _config_file(flags, env, default_file)
    in_file = _read_file(path, problems) if path else {}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, (spec, default) in specs().items():
        layers = (flags, env, in_file)
        given = next((layer[name] for layer in layers if name in layer), None)
        values[name], sources[name] = default, "default"
        if given is None:
            continue
        try:
            values[name], sources[name] = given.parse(spec, given.value), given.source
        except BadValueError as error:
            shown = "(secret)" if spec.is_secret else repr(given.value)
            problems.append(f"{name}={shown} from {given.source}: {error}")
    _derive(values, sources, detection_is_firm=_is_firm(flags, env, in_file))
    problems += contradictions(values, sources)
    if problems:
        before = " " if len(problems) == 1 else "\n  "
        raise SettingsError(f"the settings are not valid:{before}" + "\n  ".join(problems))
    return Settings(
        **values, config_file=path, sources=MappingProxyType(sources), notes=_notes(path)
    )


def _is_firm(*layers: _Layer) -> bool:
    """Whether `language_detection` comes from the source of `language` or a stronger one."""
    for layer in layers:  # the strongest first
        if "language_detection" in layer or "language" in layer:
            return "language_detection" in layer
    return False


def _derive(values: dict[str, Any], sources: dict[str, str], *, detection_is_firm: bool) -> None:
    """Settings that follow from others: a language turns detection off, unless that is firm."""
    if values["model_dir"] is None and values["model_id"] is None:
        values["model_dir"] = DEFAULT_MODEL_DIR
    if values["language"] is not None and not detection_is_firm:
        values["language_detection"] = False
        sources["language_detection"] = "follows from language"


def _notes(path: Path | None) -> tuple[str, ...]:
    if path is not None and (script := path.parent / "preprocess.sh").exists():
        return (f"{script} is not run: audio_channel, high_pass_hz and loudness_lufs do such work",)
    return ()


def _read_flags(argv: list[str], problems: list[str]) -> _Layer:
    """`--name value`, `--name=value`, and `--name` alone for true; dashes and underscores alike."""
    known = {name: spec for name, (spec, _) in specs().items() if not spec.is_secret}
    layer: _Layer = {}
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if argument in ("-h", "--help"):
            sys.stdout.write(help_text())
            raise SystemExit(0)
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in (*known, _FILE_FLAG):
            problems.append(_unknown("flag", flag, name, [f"--{n}" for n in (*known, _FILE_FLAG)]))
            if rest and not equals and not rest[0].startswith("--"):
                rest.pop(0)  # its value
            continue
        if not equals:
            if rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            elif name in known and known[name].kind is bool:
                value = "true"
            else:
                problems.append(f"flag {flag}: a value is missing")
                continue
        layer[name] = _Given(value, f"flag --{name}", parse_text)
    return layer


def _read_environment(environ: Mapping[str, str], problems: list[str]) -> _Layer:
    """Prefixed variables and the further names of some settings; an empty one counts as not set."""
    variables = {ENV_PREFIX + _FILE_FLAG.upper(): _FILE_FLAG}
    for name, (spec, _) in specs().items():
        variables |= dict.fromkeys((ENV_PREFIX + name.upper(), *spec.env), name)
    layer: _Layer = {}
    for variable, name in variables.items():
        value = environ.get(variable, "")
        if value and name not in layer and not _SERVICE_URL.match(value):
            layer[name] = _Given(value, f"environment {variable}", parse_text)
    for variable, value in environ.items():
        if variable in variables or not variable.startswith(ENV_PREFIX):
            continue
        if _SERVICE_LINK.search(variable) or _SERVICE_URL.match(value):
            continue
        problems.append(_unknown("environment variable", variable, variable, variables))
    return layer


def _config_file(flags: _Layer, env: _Layer, default_file: Path) -> Path | None:
    for layer in (flags, env):
        if _FILE_FLAG in layer:
            return Path(layer.pop(_FILE_FLAG).value)
    return default_file if default_file.exists() else None


def _read_file(path: Path, problems: list[str]) -> _Layer:
    """The article's keys (batch_size, ...) and the names of all settings but the secret ones."""
    source = f"file {path}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
    except (OSError, ValueError) as error:
        problems.append(f"{source}: {error}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{source}: must hold a JSON object, holds {type(content).__name__}")
        return {}
    keys: dict[str, str] = {}
    for name, (spec, _) in specs().items():
        if not spec.is_secret:
            keys |= dict.fromkeys(filter(None, (name, spec.file_key)), name)
    layer: _Layer = {}
    for key, value in content.items():
        if key not in keys:
            problems.append(_unknown(f"{source}: key", key, key, keys))
        elif keys[key] in layer:
            problems.append(f"{source}: {key!r} and {keys[key]!r} are the same setting")
        else:
            layer[keys[key]] = _Given(value, f"{source} key {key}", parse_native)
    return layer


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} is given twice")
        found[key] = value
    return found


def _unknown(what: str, shown: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [k.removeprefix("--") for k in known], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "choose from " + ", ".join(known)
    return f"{what} {shown!r} is unknown; {hint}"


if __name__ == "__main__":
    sys.stdout.write(markdown_table())
