"""What the commands' arguments have in common."""

from __future__ import annotations

import argparse

from predictor.cli.checkpoint import HELP


def command_parser(name: str, about: str, **more: str) -> argparse.ArgumentParser:
    """A parser whose help shows `about` as it is written."""
    return argparse.ArgumentParser(
        prog=f"qwen3-asr {name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,  # type: ignore[arg-type]  # texts
    )


def add_recordings(parser: argparse.ArgumentParser, metavar: str, about: str) -> None:
    """Files and folders, for `recordings.find`."""
    parser.add_argument("inputs", nargs="*", metavar=metavar, help=about)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, and settings to load it with, for `checkpoint.settings_for`."""
    parser.add_argument("--checkpoint", help=HELP)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting"
    )
