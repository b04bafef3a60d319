"""Routes that a setting turns on, while it is not set: who asks for one is told which it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from predictor.errors import NotFound

JOBS: Final = ("/v1/jobs", "jobs are off here, the setting jobs_dir turns them on")
PAGE: Final = ("/page", "the page is off here, the setting enable_page turns it on")
METRICS: Final = ("/metrics", "metrics are on a port of their own here, by the setting admin_port")


class Nowhere:
    """The answer to a path that leads nowhere."""

    def __init__(self, off: Mapping[str, str]) -> None:
        """`off`: path -> what to say of it, and of all below it."""
        self._off = off

    def error(self, path: str) -> NotFound:
        """For this path."""
        for prefix, said in self._off.items():
            if path == prefix or path.startswith(prefix + "/"):
                return NotFound(f"no such route: {said}")
        return NotFound("no such route")
