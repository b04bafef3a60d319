"""The fenced blocks of a document: what to run, and what it prints.

`sh` and `python` blocks run against a server on the embedded checkpoint; a `text` block behind one
is its output, where `…` stands for anything. `console` blocks need what a test has not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = ("sh", "python")


@dataclass(frozen=True)
class Example:
    """A block that runs, and the output it is shown with."""

    language: str
    source: str
    shown: str

    def matches(self, printed: str) -> bool:
        shown = self.shown.strip().replace(
            "…\n", "…"
        )  # a line may be broken where much is left out
        parts = [re.escape(part) for part in shown.split("…")]
        return re.fullmatch(".*?".join(parts), printed.strip(), re.DOTALL) is not None


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return [(match[1], match[2]) for match in _FENCE.finditer(text)]


def examples(text: str) -> list[Example]:
    """Every runnable block with its output. Raises ValueError where no output follows."""
    found = []
    fenced = blocks(text)
    for (language, source), (follows, shown) in zip(fenced, [*fenced[1:], ("", "")], strict=True):
        if language in RUNNABLE:
            if follows != "text":
                raise ValueError(f"no output is shown for: {source}")
            found.append(Example(language, source, shown))
    return found
