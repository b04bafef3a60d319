"""Where Triton finds compiled kernels: a folder of this machine, and beneath it what was shipped.

Triton names what it compiled by a hash of the source, the compiler and the kind of device, and
knows one folder, which it writes to. An image has a second one, filled when it was built
(`engine/precompile.py`) and only read.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import ClassVar

from triton import knobs
from triton.runtime.cache import FileCacheManager

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "kernels"


def shipped_folder(arch: int) -> Path:
    """Of kernels for a compute capability, 90 for 9.0."""
    return SHIPPED / f"sm_{arch}"


def use_kernels(arch: int) -> None:
    """Let Triton find what was shipped for this kind of device, and write where it can."""
    _ensure_writable()
    LayeredCache.shipped = shipped_folder(arch)
    if LayeredCache.shipped.is_dir():
        knobs.cache.manager_class = LayeredCache


def _ensure_writable() -> None:
    """Without a folder to compile into every kernel would be switched off: where the one that is
    set cannot be written to, take a new temporary one."""
    folder = os.environ.get("TRITON_CACHE_DIR")
    if not folder:
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="kernels-")
        logger.warning("TRITON_CACHE_DIR is not used, nothing is kept for later starts: %s", error)


class LayeredCache(FileCacheManager):  # type: ignore[misc]
    """One entry: this machine's if it has it, or else the shipped one."""

    shipped: ClassVar[Path] = SHIPPED

    def get_file(self, filename: str) -> str | None:
        """The path of one file of the entry."""
        own: str | None = super().get_file(filename)
        if own is not None:
            return own
        file = self.shipped / self.key / filename
        return str(file) if file.is_file() else None

    def get_group(self, filename: str) -> dict[str, str] | None:
        """The paths of all files that were written together, by name."""
        own: dict[str, str] | None = super().get_group(filename)
        if own is not None:
            return own
        folder = self.shipped / self.key
        if not (folder / f"__grp__{filename}").is_file():
            return None
        # Where they lie now, and not where they lay when they were written down.
        return {f.name: str(f) for f in folder.iterdir() if not f.name.startswith("__grp__")}
