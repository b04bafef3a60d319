"""Readers of what other toolkits leave: NeMo manifests, Kaldi folders, CSV and TSV tables."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from pipelines.lib.errors import ManifestError
from pipelines.lib.manifest import (
    MAX_SECONDS,
    Clip,
    parse_clip_language,
    read_objects,
    resolve_audio,
)
from pipelines.lib.rows import ID_COLUMNS, row_clip
from predictor.errors import InvalidInput

TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}
NEMO_AUDIO = "audio_filepath"


def is_nemo(path: Path) -> bool:
    """Whether a JSONL file's first object names its audio as NeMo does."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = json.loads(next(line for line in file if line.strip()))
    except (OSError, ValueError, RecursionError, StopIteration):
        return False
    return isinstance(first, dict) and NEMO_AUDIO in first and "audio" not in first


def read_nemo(path: Path, _split: str | None, language: str | None) -> list[Clip]:
    """JSONL with audio_filepath, text and duration; further keys are tags."""
    clips = []
    for number, entry in read_objects(path):
        where = f"{path}:{number}"
        if entry.get("offset"):
            raise ManifestError(
                f"{where}: offset: {entry['offset']} s into a longer recording; cut it first, a "
                "service is sent whole recordings"
            )
        row: dict[str, Any] = dict(entry)
        for key in ("source_lang", "target_lang"):  # Canary's names
            row.setdefault("lang", row.pop(key, None))
        for key in ("offset", "pred_text", "taskname", "pnc", "answer"):
            row.pop(key, None)
        name = str(row.get(NEMO_AUDIO))
        clips.append(
            row_clip(row, where=where, clip_id=name, folder=path.parent, language=language)
        )
    return clips


def read_table(path: Path, _split: str | None, language: str | None) -> list[Clip]:
    """CSV or TSV with a header; the recordings' paths are relative to it."""
    delimiter = TABLE_SUFFIXES.get(path.suffix.lower(), ",")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if delimiter == "\t":  # a quotation mark is a character there
                rows = list(csv.DictReader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE))
            else:
                rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    clips = []
    for number, row in enumerate(rows, start=2):
        where = f"{path}:{number}"
        if None in row or None in row.values():
            raise ManifestError(f"{where}: has another number of columns than the header")
        given = next((row[key] for key in ID_COLUMNS if row.get(key)), None)
        clips.append(
            row_clip(row, where=where, clip_id=given or f"{path.stem}/{number}",
                     folder=path.parent, language=language)
        )  # fmt: skip
    return clips


def is_kaldi(path: Path) -> bool:
    """Whether a folder is a Kaldi data directory."""
    return (path / "wav.scp").is_file() and (path / "text").is_file()


def read_kaldi(path: Path, split: str | None, language: str | None) -> list[Clip]:
    """wav.scp and text, with utt2spk, utt2lang and utt2dur where they are."""
    path = path / split if split else path
    if (path / "segments").exists():
        raise ManifestError(
            f"{path / 'segments'}: recordings are cut there; extract the segments first, a service "
            "is sent whole recordings"
        )
    texts, speakers = _pairs(path / "text"), _pairs(path / "utt2spk", optional=True)
    languages = _pairs(path / "utt2lang", optional=True)
    durations = _pairs(path / "utt2dur", optional=True)
    clips = []
    for name, (number, place) in _pairs(path / "wav.scp").items():
        where = f"{path / 'wav.scp'}:{number}"
        if place.endswith("|"):
            raise ManifestError(f"{where}: {name} is a command; write the recordings out first")
        if name not in texts:
            raise ManifestError(f"{where}: {name} has no line in {path / 'text'}")
        audio = resolve_audio(place, path.resolve(), where)
        if "://" not in audio and not Path(audio).is_file():
            raise ManifestError(f"{where}: audio {audio} does not exist")
        try:
            spoken = parse_clip_language(languages[name][1] if name in languages else None)
        except InvalidInput as error:
            raise ManifestError(f"{path / 'utt2lang'}: {name}: {error.message}") from error
        clips.append(
            Clip(
                id=name,
                audio=audio,
                text=texts[name][1],
                language=spoken or language,
                duration_s=_seconds(path / "utt2dur", *durations[name])
                if name in durations
                else None,
                speaker=speakers[name][1] or None if name in speakers else None,
            )
        )
    return clips


def _seconds(path: Path, number: int, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < MAX_SECONDS:
        raise ManifestError(f"{path}:{number}: expected seconds of at least 0, found {text!r}")
    return seconds


def _pairs(path: Path, *, optional: bool = False) -> dict[str, tuple[int, str]]:
    """Line number and rest of each line by its first word."""
    if optional and not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    found: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, start=1):
        name, rest = [*line.split(maxsplit=1), "", ""][:2]  # by tabs too
        if name in found:
            raise ManifestError(f"{path}:{number}: {name} is already on line {found[name][0]}")
        if name:
            found[name] = (number, rest.strip())
    return found
