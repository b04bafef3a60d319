"""Transcribe an archive: a folder, bucket or manifest of recordings to JSONL, text and subtitles.

Resumable: the journal holds every answer, and what was answered is not asked again when the archive
has grown; a recording that was changed since is. Each recording's files lie under the same name as
the recording does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip, is_url, parse_clip_language
from pipelines.lib.readers import read_dataset
from pipelines.lib.storage import object_store
from pipelines.lib.transcribe import AskOptions, Target, transcribe_together
from predictor.errors import InvalidInput
from predictor.text.subtitles import to_srt, to_vtt
from predictor.types import Segment

AUDIO_SUFFIXES = frozenset(
    {
        ".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".m4a", ".mp4", ".aac", ".webm", ".amr",
        ".caf", ".wma", ".mka", ".aiff", ".aif", ".au",
    }
)  # fmt: skip
JOURNAL, TRANSCRIPTS = "journal.jsonl", "transcripts.jsonl"
MAX_NAME_BYTES = 255  # of a file, on every usual file system


def transcribe_archive(
    source: str,
    service: ServiceOptions,
    out: Path,
    ask: AskOptions,
    *,
    formats: Sequence[str] = ("jsonl", "txt", "srt"),
    language: str | None = None,
) -> list[Record]:
    """Ask for what is missing and write the files; the records, failures among them.

    Raises OptionError for an unknown format or language, ManifestError when there is nothing to
    transcribe.
    """
    unknown = [name for name in formats if name not in FORMATS and name != "jsonl"]
    if unknown:
        raise OptionError(f"formats: {unknown[0]!r} is not one of jsonl, {', '.join(FORMATS)}")
    try:
        spoken = parse_clip_language(language)
    except InvalidInput as error:
        raise OptionError(f"language: {error.message}") from error
    clips = find_recordings(source, allow_remote=ask.allow_remote, language=spoken)
    (records,) = transcribe_together(clips, [Target(service, out / JOURNAL)], ask)
    if "jsonl" in formats:
        _write_jsonl(out / TRANSCRIPTS, clips, records)
    for clip, record in zip(clips, records, strict=True):
        for name in formats:
            if name in FORMATS and record.error is None:
                path = _written_to(out / name, f"{clip.id}.{name}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(FORMATS[name](record), encoding="utf-8")
    return records


def find_recordings(source: str, *, allow_remote: bool, language: str | None) -> list[Clip]:
    """Every recording of a folder or bucket (by its ending, at any depth), or of a manifest.

    Hidden files are left out: other systems keep what is no recording under its name.
    """
    if is_url(source):
        if not allow_remote:
            raise ManifestError(f"{source}: is remote, and remote audio was not allowed")
        found = _bucket(source)
    elif Path(source).is_dir() and not (Path(source) / "manifest.jsonl").is_file():
        root = Path(source).resolve()
        files = sorted(file for file in root.rglob("*") if file.is_file())
        found = {file.relative_to(root).as_posix(): str(file) for file in files}
    elif Path(source).is_file() and Path(source).suffix.lower() in AUDIO_SUFFIXES:
        found = {Path(source).name: str(Path(source).resolve())}
    else:
        return _named(read_dataset(source, language=language))
    clips = [
        Clip(name, audio, None, language)
        for name, audio in sorted(found.items())
        if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in PurePosixPath(name).parts)
    ]
    if not clips:
        raise ManifestError(f"{source}: holds no recordings ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return clips


def _bucket(source: str) -> dict[str, str]:
    scheme = urlsplit(source).scheme
    with object_store(source, "", "listed") as (store, root):
        names = store.find(root)
    return {name.removeprefix(root).strip("/"): f"{scheme}://{name.lstrip('/')}" for name in names}


def _named(clips: Sequence[Clip]) -> list[Clip]:
    """Ids become file names: none leads out of the folder, and no two lead to one file."""
    named: dict[str, Clip] = {}
    for clip in clips:
        parts = [part for part in PurePosixPath(clip.id).parts if part not in ("/", "..", ".")]
        name = "/".join(parts)
        if not name or "\0" in name:
            raise ManifestError(f"id {clip.id!r}: cannot be a file's name")
        if name in named:
            raise ManifestError(
                f"ids {named[name].id!r} and {clip.id!r}: both would be written to {name!r}"
            )
        named[name] = clip
    return [
        Clip(name, clip.audio, None, clip.language, clip.duration_s, clip.speaker, clip.context)
        for name, clip in named.items()
    ]


def _written_to(folder: Path, name: str) -> Path:
    """A recording's file; a part that is too long for a name ends in its digest instead."""
    parts = []
    for part in PurePosixPath(name).parts:
        if len(os.fsencode(part)) > MAX_NAME_BYTES:
            end = f"-{sha256(os.fsencode(part)).hexdigest()[:12]}{PurePosixPath(part).suffix}"
            kept = os.fsencode(part)[: MAX_NAME_BYTES - len(os.fsencode(end))]
            part = kept.decode("utf-8", "ignore") + end
        parts.append(part)
    return folder.joinpath(*parts)


def _write_jsonl(path: Path, clips: Sequence[Clip], records: Sequence[Record]) -> None:
    lines = []
    for clip, record in zip(clips, records, strict=True):
        entry: dict[str, Any] = {"id": clip.id, "audio": clip.audio, "text": record.text}
        more = {
            "language": record.language, "confidence": record.confidence,
            "duration_s": record.duration_s, "segments": record.segments, "error": record.error,
            "error_message": record.error_message,
        }  # fmt: skip
        entry |= {key: value for key, value in more.items() if value is not None}
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names may be no text (they are bytes): JSON says such a byte as \udcXX.
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def _segments(record: Record) -> list[Segment]:
    """The service's segments; the whole recording as one where it tells none."""
    told = record.segments or [{"start": 0.0, "end": record.duration_s or 0.0, "text": record.text}]
    return [
        Segment(
            id=number,
            start_s=float(each.get("start", 0.0)),
            end_s=float(each.get("end", 0.0)),
            text=str(each.get("text", "")),
            language=record.language,
            confidence=float(each.get("confidence") or 0.0),
            avg_logprob=float(each.get("avg_logprob") or 0.0),
            finish_reason="stop",
        )
        for number, each in enumerate(told)
    ]


FORMATS: dict[str, Callable[[Record], str]] = {
    "txt": lambda record: record.text + "\n",
    "srt": lambda record: to_srt(_segments(record)),
    "vtt": lambda record: to_vtt(_segments(record)),
}
