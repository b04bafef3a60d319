"""Where Triton finds compiled kernels: a folder of this machine, and beneath it what was shipped.

Triton names what it compiled by a hash of the source, the compiler and the kind of device, and
knows one folder, which it writes to. An image has a second one, filled when it was built
(`engine/precompile.py`) and only read.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from triton import knobs
from triton.runtime.cache import FileCacheManager

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[2] / "kernels"


def folder_of(arch: int, kernels: Path) -> Path:
    """Where kernels for a compute capability lie, 90 for 9.0."""
    return kernels / f"sm_{arch}"


def use_kernels(arch: int) -> None:
    """Let Triton find what was shipped for this kind of device, and write where it can."""
    ensure_writable()
    LayeredCache.shipped = folder_of(arch, SHIPPED)
    if LayeredCache.shipped.is_dir():
        knobs.cache.manager_class = LayeredCache


@contextmanager
def noted() -> Iterator[list[bool]]:
    """Grows by one for each kernel that comes up meanwhile: whether it had to be compiled."""
    compiled: list[bool] = []
    knobs.compilation.listener = lambda **step: compiled.append(not step["cache_hit"])
    try:
        yield compiled
    finally:
        knobs.compilation.listener = None


def ensure_writable() -> None:
    """Without a folder to compile into every kernel would be switched off, also those that need no
    compiling: where Triton's cannot be written to, take a new temporary one."""
    folder = knobs.cache.dir
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="kernels-")
        logger.warning("%s is not used, no kernel is kept for later starts: %s", folder, error)


class LayeredCache(FileCacheManager):
    """One entry: this machine's if it has it, or else the shipped one."""

    shipped: ClassVar[Path]

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
