"""One row of a table as a clip: columns under their usual names, every other one a tag."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.lib.errors import ManifestError
from pipelines.lib.manifest import MAX_SECONDS, Clip, parse_clip_language, resolve_audio
from predictor.errors import InvalidInput

AUDIO_COLUMNS = ("file_name", "audio", "path", "file", "filename", "audio_path", "audio_filepath")
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text")
LANGUAGE_COLUMNS = ("language", "locale", "lang", "language_code")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
DURATION_COLUMNS = ("duration_s", "duration")
ID_COLUMNS = ("id", "utt_id", "key")
KNOWN = {*AUDIO_COLUMNS, *TEXT_COLUMNS, *LANGUAGE_COLUMNS, *SPEAKER_COLUMNS, *DURATION_COLUMNS}
MAX_TAG_CHARS = 80  # longer values are texts, not classes


def row_clip(
    row: Mapping[str, Any],
    *,
    where: str,
    clip_id: str,
    folder: Path,
    language: str | None,
    audio: str | None = None,
) -> Clip:
    """A clip; `where` begins every ManifestError, `language` is for rows that do not say theirs."""
    if not any(column in row for column in TEXT_COLUMNS):
        raise ManifestError(f"{where}: none of the columns {', '.join(TEXT_COLUMNS)}")
    text = _first(row, TEXT_COLUMNS)
    spoken = _first(row, LANGUAGE_COLUMNS)
    try:
        known = parse_clip_language(spoken if isinstance(spoken, str) else None) or language
    except InvalidInput as error:
        raise ManifestError(f"{where}: language: {error.message}") from error
    speaker = _first(row, SPEAKER_COLUMNS)
    return Clip(
        id=clip_id,
        audio=_audio(row, where, folder, audio),
        text=None if text is None else str(text),
        language=known,
        duration_s=_duration(row),
        speaker=str(speaker) if speaker not in (None, "") else None,
        tags={key: (str(value),) for key, value in row.items() if _is_tag(key, value)},
    )


def _audio(row: Mapping[str, Any], where: str, folder: Path, audio: str | None) -> str:
    name = audio or _first(row, AUDIO_COLUMNS)
    if not isinstance(name, str):
        raise ManifestError(f"{where}: has neither file_name nor an audio column")
    path = resolve_audio(name, folder.resolve(), where)
    if "://" not in path and not Path(path).is_file():
        raise ManifestError(f"{where}: audio {path} does not exist")
    return path


def _duration(row: Mapping[str, Any]) -> float | None:
    value = _first(row, DURATION_COLUMNS)
    try:
        seconds = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < MAX_SECONDS else None


def _is_tag(key: str, value: object) -> bool:
    if key in KNOWN or key in ID_COLUMNS or not isinstance(value, str | int | bool):
        return False
    return 0 < len(str(value)) <= MAX_TAG_CHARS


def _first(row: Mapping[str, Any], columns: tuple[str, ...]) -> object:
    return next((row[column] for column in columns if row.get(column) is not None), None)
