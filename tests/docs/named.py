"""What documents name: commands, settings, variables, files, metrics, as they are written there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from tests.docs.examples import blocks

ROOT: Final = Path(__file__).parents[2]
_SHELL: Final = ("", "sh", "console")
_SPAN: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_FIRST: Final = ("python", "qwen3-asr", "make", "kubectl", "bash")
_OURS: Final = ("manifests/", "tests/", "predictor/", "pipelines/", "notebooks/", "cluster/")


@dataclass(frozen=True)
class Command:
    """One call, without what sets its environment, pipes it or comments on it."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


def documents() -> list[Path]:
    """All of the project's but the changelog, which names what is no more."""
    ignored = {".venv", "node_modules", "out", ".pytest_cache"}
    found = (path for path in sorted(ROOT.glob("**/*.md")) if not ignored & set(path.parts))
    return [path for path in found if path.name != "CHANGELOG.md"]


def spans(text: str) -> list[str]:
    """What stands in backticks within a line."""
    return [each.replace("\\|", "|") for each in _SPAN.findall(_FENCED.sub("", text))]


def commands(text: str) -> Iterator[Command]:
    """Every call in blocks and in backticks."""
    for language, block in blocks(text):
        if language in _SHELL and "┌" not in block:  # which is a drawing
            for line in block.replace("\\\n", " ").splitlines():
                yield from _calls(line.removeprefix("$ "))
    for span in spans(text):
        yield from _calls(span)


def _calls(line: str) -> Iterator[Command]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return  # prose, or a part of a longer line
    while words:
        call = list(takewhile(lambda word: word not in ("|", "&&", ";", "&"), words))
        words = words[len(call) + 1 :]
        while call and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", call[0]):
            call.pop(0)
        if len(call) > 1 and call[0] in _FIRST:
            yield Command(tuple(call))


def files(text: str, document: Path) -> Iterator[str]:
    """Paths in backticks that can be of this tree, and are not there."""
    for span in spans(text):
        if not re.fullmatch(r"[\w.-]+(/[\w.*-]+)+/?", span) or "*" in span:
            continue
        places = [document.parent, ROOT, ROOT / "manifests", ROOT / "predictor", ROOT / "tests"]
        if "node_modules" in span:
            continue  # made by make test
        is_ours = span.startswith(_OURS) or Path(span).suffix in (".py", ".yaml", ".json", ".sh")
        if is_ours and not any((place / span).exists() for place in places):
            yield span
