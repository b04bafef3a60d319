"""A server as one of several fronts of a pod."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from predictor.book import Book


@dataclass(frozen=True, slots=True)
class PodPlace:
    """This server as one of several fronts."""

    book: Book
    num_fronts: int
    parent: socket.socket  # the pod, which hears how far we are
    is_late: bool  # the others serve already: listen when ready, not before
    aligner: Path  # where the pod's aligner is reached, if it has one

    def tell(self, what: str) -> None:
        """One line to the pod; if it has gone, `when_orphaned` says so."""
        with contextlib.suppress(OSError):
            self.parent.sendall(what.encode() + b"\n")

    def when_orphaned(self, stop: Callable[[], None]) -> None:
        """Have `stop` called in this event loop if the pod goes without a word."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self.parent)
            stop()

        loop.add_reader(self.parent, gone)

    def share(self, whole: int) -> int:
        """This front's part of what the whole pod may have, 1 at least."""
        return max(1, math.ceil(whole / self.num_fronts))
