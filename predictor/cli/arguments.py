"""What the commands' arguments have in common."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import SplitResult, urlsplit

from predictor.cli.checkpoint import HELP
from predictor.cli.errors import CliError
from predictor.errors import InvalidInput
from predictor.text.languages import parse_language

API_KEY_ENV: Final = "ASR_API_KEY"


class _Parser(argparse.ArgumentParser):
    """One that says a mistake in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """Raises CliError."""
        said = message.removeprefix("argument ")
        raise CliError(f"{said} ({self.prog} --help says more)")


def command_parser(name: str, about: str, **more: str) -> argparse.ArgumentParser:
    """A parser whose help shows `about` as it is written. Mistakes raise CliError."""
    return _Parser(
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


def seconds(given: str) -> float:
    """A time, or another amount, for an argument's `type`: finite and above 0."""
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{given!r} must be a number above 0")
    return number


def seconds_or_none(given: str) -> float:
    """The same, or 0."""
    try:
        if float(given) == 0:
            return 0.0
    except ValueError:
        pass
    return seconds(given)


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argument's `type`: a whole number within these."""

    def parse(given: str) -> int:
        try:
            number = int(given)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(
                f"{given!r} must be a whole number from {low} to {high}"
            )
        return number

    return parse


def text(given: str) -> str:
    """An argument's `type`: what can be sent as UTF-8."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("must be UTF-8") from None
    return given


def language(given: str) -> str | None:
    """An argument's `type`: the canonical name; None where it is to be detected."""
    try:
        return parse_language(given)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message.partition(": ")[2]) from error


def service_url(given: str) -> SplitResult:
    """An argument's `type`: where a service is."""
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{given!r} is no address: {error}") from error
    plain = given.isascii() and not any(c <= " " for c in given)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or port == 0:
        raise argparse.ArgumentTypeError(
            f"{given!r} must be an address such as http://localhost:8080"
        )
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise argparse.ArgumentTypeError(
            f"{given!r} must be the service's address alone; a key goes into {API_KEY_ENV}"
        )
    return parts


def base_of(url: SplitResult) -> str:
    """The address without a slash at its end, to which a route is added."""
    return url.geturl().rstrip("/")


def api_key() -> str | None:
    """The key for a service, from the environment. Raises CliError."""
    key = os.environ.get(API_KEY_ENV)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise CliError(f"{API_KEY_ENV}: a key is printable ASCII, without a line's end")
    return key or None


def check_folder_out(out: Path) -> None:
    """Raises CliError, before anything is loaded, where no file could be written below `out`, which
    need not be there yet."""
    from predictor.settings.folders import unwritable

    there = out
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        problem = unwritable(there) if there.is_dir() else f"{there} is a file"
    except OSError as error:  # a name that is too long, say
        problem = error.strerror
    if problem is not None:
        raise CliError(f"--out {out}: {problem}; give a folder that is writable")


def check_file_out(out: Path) -> None:
    """The same for a file, whose folder must be there."""
    if out.is_dir():
        raise CliError(f"--out {out}: is a folder; give a file")
    if not out.parent.is_dir():
        raise CliError(f"--out {out}: there is no folder {out.parent}")
    check_folder_out(out.parent)
