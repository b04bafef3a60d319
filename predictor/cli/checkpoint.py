"""Which checkpoint a command uses, and the settings to load it with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from predictor.cli.errors import CliError
from predictor.errors import InvalidInput
from predictor.settings.fields import Settings
from predictor.settings.read import SettingsError, load_settings
from predictor.text.languages import parse_language

EMBEDDED: Final = Path(__file__).parents[1] / "checkpoints"
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_FROM_ENVIRONMENT: Final = ("QWEN3_ASR_MODEL_DIR", "QWEN3_ASR_MODEL_ID", "MODEL_PATH")
HELP: Final = (
    "a folder, a hub id such as Qwen/Qwen3-ASR-0.6B, or `tiny`, the embedded one for trials "
    "(default: what QWEN3_ASR_MODEL_DIR says)"
)


def settings_for(checkpoint: str | None, more: Sequence[str] = ()) -> Settings:
    """The settings with this checkpoint; `more` are NAME=VALUE. Raises CliError."""
    flags = [*_where(checkpoint), *(f"--{each}" for each in more)]
    if not any(each.startswith("log_level=") for each in more):
        flags.append("--log_level=warning")
    settings = loaded([*flags, "--log_format=text"], os.environ)
    if settings.model_dir is not None:
        check_folder(settings.model_dir)
    return settings


def loaded(flags: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """As a server would load them. Raises CliError."""
    try:
        settings = load_settings(list(flags), environ)
        parse_language(settings.language)
    except SettingsError as error:
        raise CliError(str(error)) from error
    except InvalidInput as error:
        raise CliError(error.message) from error
    return settings


def _where(checkpoint: str | None) -> list[str]:
    if checkpoint is None:
        if any(os.environ.get(name) for name in _FROM_ENVIRONMENT):
            return []
        raise CliError(
            "no checkpoint given: --checkpoint FOLDER, --checkpoint Qwen/Qwen3-ASR-0.6B, "
            "or --checkpoint tiny for a trial"
        )
    embedded = EMBEDDED / checkpoint
    if os.sep not in checkpoint and (embedded / "config.json").is_file():
        return ["--model_dir", str(embedded)]
    if _HUB_ID.fullmatch(checkpoint) and not Path(checkpoint).exists():
        return ["--model_id", checkpoint]
    return ["--model_dir", checkpoint]


def check_folder(folder: Path) -> None:
    """Raises CliError, in milliseconds, for what cannot be a checkpoint that we may read."""
    from predictor.settings.checkpoint_files import checkpoint_problem

    problem = checkpoint_problem(folder)
    if problem is not None:
        raise CliError(problem)
