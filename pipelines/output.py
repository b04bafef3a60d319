"""What the command line says: results to standard output, news to standard error."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What the command line ends with."""

    OK = 0  # done, or accepted
    REFUSED = 1  # refused or rolled back; too much failed
    MISTAKE = 2  # in the call or its inputs
    UNDECIDED = 3  # too few recordings to decide
    INTERRUPTED = 130
    TERMINATED = 143


def write(text: str) -> None:
    """A result for a person."""
    sys.stdout.write(text)


def write_json(value: Any) -> None:
    """A result for a program."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


def note(text: str) -> None:
    """A line of news."""
    sys.stderr.write(text + "\n")
