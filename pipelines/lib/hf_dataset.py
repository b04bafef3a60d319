"""Hugging Face data sets on disk: AudioFolder, Parquet shards and `save_to_disk` folders.

AudioFolder (metadata.csv or .jsonl beside the files) is read plainly; Parquet and Arrow need
pyarrow. Recordings held inside a table are written out beside it once, to `.audio/`, because a
clip is something that can be played and sent again.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.lib.errors import ManifestError
from pipelines.lib.manifest import Clip, read_objects
from pipelines.lib.rows import row_clip

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
EXTRACTED = ".audio"  # folder for recordings that were inside a table
BATCH_ROWS = 64  # read at once: rows may hold their recordings

Entry = tuple[Path, int, dict[str, Any]]


def is_hf_dataset(path: Path) -> bool:
    """Whether a folder is an AudioFolder, holds Parquet shards, or was saved with save_to_disk."""
    return bool(_metadata_files(path, None)) or bool(_table_files(path, None))


def read_hf_dataset(path: Path, *, split: str | None, language: str | None) -> list[Clip]:
    """The clips of a data set folder; ManifestError names file, row and column.

    Ids hold the table's place below `path`, so configurations and splits never share one.
    """
    metadata = _metadata_files(path, split)
    if metadata:
        return [_clip(path, entry, language) for file in metadata for entry in _metadata(file)]
    files = _table_files(path, split)
    if not files:
        raise ManifestError(f"{path}: has no metadata file and no table for split {split}")
    return [_clip(path, entry, language) for file in files for entry in _table_rows(file)]


def _metadata_files(path: Path, split: str | None) -> list[Path]:
    """At the top, else one a split."""
    root = path / split if split else path
    top = [root / name for name in METADATA_FILES if (root / name).is_file()]
    if top:
        return top[:1]
    return sorted(file for name in METADATA_FILES for file in root.glob(f"*/{name}"))


def _table_files(path: Path, split: str | None) -> list[Path]:
    arrow = sorted(path.glob(f"{split or '**'}/data-*.arrow")) or sorted(path.glob("data-*.arrow"))
    parquet = sorted(path.rglob(f"{split}*.parquet" if split else "*.parquet"))
    return arrow or parquet


def _metadata(file: Path) -> Iterator[Entry]:
    if file.suffix == ".csv":
        text = file.read_text(encoding="utf-8-sig")
        for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
            yield file, number, dict(row)
        return
    for number, row in read_objects(file):
        yield file, number, row


def _table_rows(file: Path) -> Iterator[Entry]:
    try:
        pa = import_module("pyarrow")
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise ManifestError(f"{file}: reading Arrow and Parquet needs the package pyarrow") from (
            error
        )
    number = 0
    try:
        for batch in _batches(file, pa, parquet):
            for row in batch.to_pylist():
                number += 1
                yield file, number, row
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: not UTF-8, not a date
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ManifestError(f"{file}: is damaged after row {number}: {reason}") from error


def _batches(file: Path, pa: Any, parquet: Any) -> Iterator[Any]:
    if file.suffix == ".parquet":
        with parquet.ParquetFile(file) as table:
            yield from table.iter_batches(batch_size=BATCH_ROWS)
        return
    with pa.memory_map(str(file)) as source:
        for batch in pa.ipc.open_stream(source):
            batch.validate(full=True)  # damaged offsets would be read from beyond the file
            for first in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(first, BATCH_ROWS)


def _clip(root: Path, entry: Entry, language: str | None) -> Clip:
    file, number, row = entry
    place = file.relative_to(root).with_suffix("").as_posix()
    audio = _extracted(file, number, row.get("audio"))
    return row_clip(
        row, where=f"{file}:{number}", clip_id=f"{place}/{number}", folder=file.parent,
        language=language, audio=audio,
    )  # fmt: skip


def _extracted(file: Path, number: int, audio: object) -> str | None:
    """The path of a recording that was inside the table, or that the table names."""
    if not isinstance(audio, dict):
        return None
    name, data = audio.get("path"), audio.get("bytes")
    if data is None:
        return name if isinstance(name, str) else None
    target = file.parent / EXTRACTED / f"{file.stem}-{number}-{Path(name or 'audio').name}"
    try:
        target.parent.mkdir(exist_ok=True)
        if not target.exists() or target.stat().st_size != len(data):
            target.write_bytes(data)
    except OSError as error:
        raise ManifestError(
            f"{file}:{number}: the recording inside cannot be written to {target}: {error.strerror}"
        ) from error
    return str(target)
