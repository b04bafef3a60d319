"""What ends a command: one line that says what to do, and an exit code."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1  # some of the work could not be done, or a check says no
MISTAKE: Final = 2  # the call, or what it names, is wrong: nothing was done
INTERRUPTED: Final = 130  # Ctrl-C, as shells have it


class CliError(Exception):
    """The command cannot go on; the message is one line for whoever typed it."""

    def __init__(self, message: str, code: int = MISTAKE) -> None:
        super().__init__(message)
        self.code = code
