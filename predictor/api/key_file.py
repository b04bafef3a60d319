"""API keys with names, from a file or a mounted Secret, taken over within seconds when it changes.

A file has lines `NAME KEY` (or a key alone); of a folder, as Kubernetes mounts a Secret, each file
is a key and its name that of the file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from predictor.settings.secret_files import read_keys

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0  # a request may be judged by keys that are so old


class KeyFile:
    """The keys of a path, looked at again every LOOK_EVERY_S. One that cannot be read, or holds no
    key, changes nothing: what was valid stays so, and the log says why."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError, ValueError."""
        self._path = path
        self._clock = clock
        self._keys = read_keys(path)
        if not self._keys:
            raise ValueError(f"{path}: holds no key")
        self._looked_s = clock()
        self._complaint = ""

    def current(self) -> Mapping[str, bytes]:
        """Name -> key."""
        if self._clock() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = self._clock()
            self._look()
        return self._keys

    def _look(self) -> None:
        try:
            keys = read_keys(self._path)
            complaint = "" if keys else "it holds no key"
        except (OSError, ValueError) as error:
            keys, complaint = {}, str(error)
        if complaint and complaint != self._complaint:
            logger.error("api_keys_file %s: %s; the keys before stay", self._path, complaint)
        self._complaint = complaint
        if keys and keys != self._keys:
            self._keys = keys
            logger.info("API keys were read anew", extra={"fields": {"keys": sorted(keys)}})
