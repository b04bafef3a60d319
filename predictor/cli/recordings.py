"""Which recordings a command is about, and where their transcripts go."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from predictor.cli.errors import CliError

STDIN: Final = "-"
BUNDLED: Final = Path(__file__).parents[1] / "recordings"
# What is taken from folders; a file that is named itself may be called as it likes.
EXTENSIONS: Final = frozenset(
    (
        *("aac", "ac3", "aif", "aiff", "amr", "au", "avi", "awb", "caf", "eac3", "flac", "flv"),
        *("gsm", "m4a", "m4b", "mka", "mkv", "mov", "mp2", "mp3", "mp4", "mpeg", "mpga", "oga"),
        *("ogg", "opus", "spx", "ts", "tta", "w64", "wav", "webm", "wma", "wv", "3gp"),
    )
)


@dataclass(frozen=True, slots=True)
class Found:
    """One recording, and its name below the folder of outputs, without an extension."""

    path: Path | None  # None: standard input
    name: Path
    num_bytes: int

    def read(self) -> bytes:
        """All of it. Raises OSError."""
        return sys.stdin.buffer.read() if self.path is None else self.path.read_bytes()

    @property
    def shown(self) -> str:
        """As messages name it."""
        return "standard input" if self.path is None else str(self.path)


def find(inputs: Sequence[str], *, recursive: bool) -> list[Found]:
    """The recordings that are meant, each once, those of a folder by name. Raises CliError."""
    found: dict[Path | None, Found] = {}
    for given in inputs:
        for each in _of(given, recursive=recursive):
            found.setdefault(each.path and each.path.resolve(), each)
    if not found:
        hint = "" if recursive else "; --recursive looks into folders below as well"
        raise CliError(f"no recordings in {', '.join(inputs)}{hint}")
    return list(found.values())


def _of(given: str, *, recursive: bool) -> Iterator[Found]:
    if given == STDIN:
        yield Found(None, Path("stdin"), 0)
        return
    path = Path(given)
    try:
        if path.is_dir():
            files = sorted(path.rglob("*") if recursive else path.iterdir())
            for file in files:
                if file.suffix[1:].lower() in EXTENSIONS and file.is_file():
                    yield Found(file, file.relative_to(path).with_suffix(""), file.stat().st_size)
            return
        yield Found(path, Path(path.stem), path.stat().st_size)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from error


def check_names(recordings: Sequence[Found]) -> None:
    """Raises CliError where two recordings would write the same file."""
    by_name: dict[Path, Found] = {}
    for each in recordings:
        other = by_name.setdefault(each.name, each)
        if other is not each:
            both = f"{other.shown} and {each.shown}"
            raise CliError(f"{both} would write the same file; give each its own run and --out")
