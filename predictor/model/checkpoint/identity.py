"""Which weights these are: a digest for callers, and checks against what stands beside them.

No torch here, and no weights read but where a list of digests asks for it.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from predictor.model.config import CheckpointError

SUMS_FILE: Final = "SHA256SUMS"
READY_FILE: Final = "ready_text.txt"  # what the model says of the built-in clip
_SUM_LINE: Final = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(\S.*)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_NUM_THREADS: Final = 4
_HEADER_SIZE_BYTES: Final = 8  # of safetensors: the length of the header, little-endian


@dataclass(frozen=True, slots=True)
class Identity:
    """What callers are told of the weights."""

    digest: str  # SHA-256, hexadecimal, of the configuration and the weights' index
    source: str  # hub id, or the folder's name
    revision: str | None  # commit of the hub, when the folder says one


def identify(folder: Path, *, model_id: str | None, revision: str | None) -> Identity:
    """Identity of the checkpoint in `folder`.

    Raises CheckpointError when its commit is not the one that was asked for, or when a file is not
    what SHA256SUMS beside it says.
    """
    commit = _commit(folder)
    if revision is not None and _COMMIT.fullmatch(revision) and commit not in (None, revision):
        raise CheckpointError(f"model_revision {revision}: the weights are of commit {commit}")
    verify_sums(folder)
    return Identity(_digest(folder), model_id or folder.name, commit or revision)


def ready_text(folder: Path) -> str | None:
    """What a sound model says of the built-in clip; None where the checkpoint does not tell."""
    path = folder / READY_FILE
    return path.read_text("utf-8").strip() if path.is_file() else None


def verify_sums(folder: Path) -> None:
    """Raises CheckpointError for a file that SHA256SUMS names and that is missing or another."""
    path = folder / SUMS_FILE
    if not path.is_file():
        return
    wanted = [_parsed(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    with ThreadPoolExecutor(_NUM_THREADS, "sums") as threads:
        found = list(threads.map(lambda pair: _sha256(folder, pair[1]), wanted))
    for (digest, name), is_now in zip(wanted, found, strict=True):
        if digest != is_now:
            raise CheckpointError(f"{name}: SHA-256 is {is_now}, {SUMS_FILE} says {digest}")


def _parsed(line: str) -> tuple[str, str]:
    match = _SUM_LINE.fullmatch(line.rstrip())
    if match is None or ".." in Path(match[2]).parts or Path(match[2]).is_absolute():
        raise CheckpointError(f"{SUMS_FILE}: not a digest and a name: {line[:100]!r}")
    return match[1].lower(), match[2]


def _sha256(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{name}: in {SUMS_FILE} and not readable: {error}") from error


def _digest(folder: Path) -> str:
    """Of the configuration, the index of the shards if there are any, and each file's header."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors.index.json")]):
        _add(digest, path.name, path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(_HEADER_SIZE_BYTES), "little")
            header = file.read(min(size, path.stat().st_size))
        _add(digest, path.name, header)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, content: bytes) -> None:
    digest.update(f"{name}\0{len(content)}\0".encode())
    digest.update(content)


def _commit(folder: Path) -> str | None:
    """The hub's commit: the name of a snapshot in its cache, or noted beside a plain download."""
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    try:
        commit = note.read_text("utf-8").split("\n", 1)[0].strip()
    except OSError:
        return None
    return commit if _COMMIT.fullmatch(commit) else None
