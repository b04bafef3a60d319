"""Hugging Face data sets on disk: AudioFolder, Parquet shards and `save_to_disk` folders.

AudioFolder (metadata.csv or .jsonl beside the files) is read plainly; Parquet and Arrow need
pyarrow. Recordings held inside a table are written out beside it once, to `.audio/`, because a
clip is something that can be played and sent again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.lib.errors import ManifestError
from pipelines.lib.manifest import Clip, parse_clip_language
from predictor.errors import InvalidInput

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text")
LANGUAGE_COLUMNS = ("language", "locale")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
EXTRACTED = ".audio"  # folder for recordings that were inside a table


def is_hf_dataset(path: Path) -> bool:
    """Whether a folder is an AudioFolder, holds Parquet shards, or was saved with save_to_disk."""
    return any((path / name).is_file() for name in METADATA_FILES) or bool(_table_files(path, None))


def read_hf_dataset(path: Path, *, split: str | None, language: str | None) -> list[Clip]:
    """The clips of a data set folder; ManifestError names file, row and column."""
    for name in METADATA_FILES:
        for root in [path / split] if split else [path]:
            if (root / name).is_file():
                return [_clip(*entry, language) for entry in _metadata(root / name)]
    files = _table_files(path, split)
    if not files:
        raise ManifestError(f"{path}: has no metadata file and no table for split {split}")
    return [_clip(*entry, language) for file in files for entry in _table_rows(file)]


def _table_files(path: Path, split: str | None) -> list[Path]:
    arrow = sorted(path.glob(f"{split or '**'}/data-*.arrow")) or sorted(path.glob("data-*.arrow"))
    parquet = sorted(path.rglob(f"{split}*.parquet" if split else "*.parquet"))
    return arrow or parquet


def _metadata(file: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
            yield file, number, dict(row)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield file, number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ManifestError(f"{file}:{number}: not JSON: {error}") from error


def _table_rows(file: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    try:
        pa = import_module("pyarrow")
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise ManifestError(f"{file}: reading Arrow and Parquet needs the package pyarrow") from (
            error
        )
    if file.suffix == ".parquet":
        table = parquet.read_table(file)
    else:
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_stream(source).read_all()
    for number, row in enumerate(table.to_pylist(), start=1):
        yield file, number, row


def _clip(file: Path, number: int, row: dict[str, Any], language: str | None) -> Clip:
    text = _first(row, TEXT_COLUMNS)
    if not isinstance(text, str):
        raise ManifestError(f"{file}:{number}: none of the columns {', '.join(TEXT_COLUMNS)}")
    spoken = _first(row, LANGUAGE_COLUMNS)
    try:
        known = language or parse_clip_language(spoken if isinstance(spoken, str) else None)
    except InvalidInput as error:
        raise ManifestError(f"{file}:{number}: language: {error.message}") from error
    speaker = _first(row, SPEAKER_COLUMNS)
    return Clip(
        id=f"{file.stem}/{number}",
        audio=str(_audio_path(file, number, row)),
        text=text,
        language=known,
        speaker=str(speaker) if speaker not in (None, "") else None,
    )


def _audio_path(file: Path, number: int, row: dict[str, Any]) -> Path:
    audio = row.get("file_name") or row.get("audio")
    name = audio.get("path") if isinstance(audio, dict) else audio
    data = audio.get("bytes") if isinstance(audio, dict) else None
    if data is not None:
        target = file.parent / EXTRACTED / f"{file.stem}-{number}-{Path(name or 'audio').name}"
        target.parent.mkdir(exist_ok=True)
        if not target.exists() or target.stat().st_size != len(data):
            target.write_bytes(data)
        return target.resolve()
    if not isinstance(name, str):
        raise ManifestError(f"{file}:{number}: has neither file_name nor an audio column")
    path = (file.parent / name).resolve()
    if not path.is_file():
        raise ManifestError(f"{file}:{number}: audio {path} does not exist")
    return path


def _first(row: dict[str, Any], columns: tuple[str, ...]) -> object:
    return next((row[column] for column in columns if row.get(column) is not None), None)
