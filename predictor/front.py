"""One of several fronts: a whole server, HTTP and gRPC and decoding, before engines of the pod's.

Started by the pod, which hands it the settings and ends it.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from predictor.book import Book
from predictor.logs import configure_logging
from predictor.processes.heap import keep_freed_memory
from predictor.settings.fields import Settings
from predictor.settings.transfer import from_json
from predictor.startup import importing

if TYPE_CHECKING:
    from predictor.server import AsrServer
    from predictor.service.loading import MakeEngine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FrontSpec:
    """Which front of which pod."""

    index: int
    num_fronts: int
    folder: Path  # of the pod: its book, and the counters of all fronts
    engines: tuple[Path, ...]  # where each engine is reached
    is_late: bool  # the others serve already: listen when ready, not before


def read_spec(parent: socket.socket) -> tuple[FrontSpec, Settings]:
    """The one line that the pod sends."""
    with parent.makefile("rb") as file:
        values = json.loads(file.readline())
    engines = tuple(map(Path, values["engines"]))
    spec = FrontSpec(
        values["index"], values["num_fronts"], Path(values["folder"]), engines, values["is_late"]
    )
    return spec, from_json(values["settings"])


def main(
    join: Callable[[Sequence[Path]], MakeEngine] | None = None,
    arrange: Callable[[AsrServer], None] = lambda server: None,
) -> None:
    """`python -m predictor.front PARENT_FD`.

    Benchmarks `join` the engines in their own way, and `arrange` something about the server.
    """
    parent = socket.socket(fileno=int(sys.argv[1]))
    spec, settings = read_spec(parent)
    configure_logging(settings.log_format, settings.log_level)
    keep_freed_memory()
    with importing():
        from predictor.service.loading import Loading, join_engines

        join_them = (join or join_engines)(spec.engines)
        loading = Loading(settings, join_them, has_real_weights=join is None)
        sys.argv[1:] = []  # KServe parses them while it is imported
        from predictor.server import PodPlace, build_server
    book = Book(spec.folder / "book", spec.num_fronts, spec.index)
    place = PodPlace(
        book, spec.num_fronts, parent, is_late=spec.is_late, aligner=spec.folder / "aligner"
    )
    server = build_server(settings, loading=loading, place=place)
    arrange(server)
    server.start()


if __name__ == "__main__":
    main()
