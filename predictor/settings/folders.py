"""Folders that the server writes to, tried by writing: permissions do not tell of a file system
that is read-only, full, or the kernel's own."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PROBE: Final = bytes(64 * 1024)
_GIB: Final = 1 << 30
_MAX_TEMPORARY: Final = 80  # bytes of its path: a socket's path in it has at most 107


def folder_problem(name: str, folder: Path, *, is_made: bool) -> str | None:
    """Why nothing can be written there now. A folder that `is_made` may be missing at first."""
    there = folder
    while is_made and not there.exists() and there != there.parent:
        there = there.parent
    if not there.exists():
        what: str | None = "no such folder"
    elif not there.is_dir():
        what = "is a file"
    else:
        what = unwritable(there)
    if what is None:
        return None
    return f"{name} {folder}: {what}; mount a folder that is writable, or set {name} to off"


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written there; tried by a file without a name, which is gone anyhow."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(_PROBE)
    except OSError as error:
        if error.errno == errno.EACCES:
            return f"user {os.getuid()} cannot write in {folder}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk of {folder} is full"
        return f"nothing can be written in {folder} ({error.strerror})"
    return None


def space_note(name: str, folder: Path, limit_name: str, limit_bytes: int) -> str | None:
    """That the disk has less room than the setting promises; None where it has enough."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None  # said otherwise
    if free >= limit_bytes:
        return None
    return (
        f"{name} {folder}: {free / _GIB:.1f} GiB are free of {limit_name}={limit_bytes} "
        f"({limit_bytes / _GIB:.1f} GiB); mount a larger disk, or lower {limit_name}"
    )


def temporary_problem() -> str | None:
    """Why sockets between processes and compiled kernels have no place."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        tried = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # named, not written to
        return (
            f"TMPDIR={tried}: no temporary folder is writable, here or in /var/tmp; mount an "
            "emptyDir at /tmp, or set TMPDIR to a folder that is writable"
        )
    if len(os.fsencode(folder)) > _MAX_TEMPORARY:
        return (
            f"TMPDIR={folder}: too long for sockets in it; set TMPDIR to a folder whose path is "
            f"shorter than {_MAX_TEMPORARY} characters"
        )
    return None
