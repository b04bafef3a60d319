"""Where large bodies wait: in files without a name, which are gone with their requests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO, Final

from predictor.api.held_bytes import HeldBytes

_FROM_BYTES: Final = 8 * 1024 * 1024


class Spool:
    """A folder, and the bytes in it. `max_bytes` is of one body, and of all together."""

    def __init__(self, folder: Path, max_bytes: int, max_body_bytes: int) -> None:
        """`max_body_bytes`: of a body in memory."""
        self._folder = folder
        self.max_bytes = max_bytes
        # From here on a recording is written to disk; before, memory is faster.
        self.from_bytes = min(_FROM_BYTES, max_body_bytes // 2)
        self.held = HeldBytes(max_bytes)

    def new_file(self) -> BinaryIO:
        """Gone when it is closed, or the process ends. Raises OSError."""
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)
