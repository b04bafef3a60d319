"""`qwen3-asr settings`: the table, what is in force, and a check of a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from predictor.cli.arguments import command_parser
from predictor.cli.checkpoint import loaded
from predictor.cli.errors import OK

_ABOUT = """\
Print every setting with its default and meaning.

  qwen3-asr settings                     the table
  qwen3-asr settings --effective         what the environment and the file make of them
  qwen3-asr settings --check FILE        whether a settings file is valid; exit code 2 if not
"""


def run(argv: list[str]) -> int:
    """Print or check."""
    parser = command_parser("settings", _ABOUT)
    parser.add_argument("--check", metavar="FILE", type=Path, help="a settings file (JSON)")
    parser.add_argument(
        "--effective", action="store_true", help="values in force, and their source"
    )
    args = parser.parse_args(argv)
    if args.check is not None:
        return _check(args.check)
    from predictor.settings.doc import effective, help_text

    if not args.effective:
        sys.stdout.write(help_text())
        return OK
    settings = loaded([], os.environ)
    for name, value, source in effective(settings):
        sys.stdout.write(f"{name:<28} {value or '-':<24} {source}\n")
    return OK


def _check(file: Path) -> int:
    """Of the file alone: the environment may differ where it is used."""
    settings = loaded(["--config_file", str(file)], {})
    given = sum(source.startswith("file") for source in settings.sources.values())
    sys.stdout.write(f"{file}: valid, {given} settings\n")
    return OK
