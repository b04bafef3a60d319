"""Readers of published data sets as they lie unpacked on disk, each into clips of a manifest.

`read_dataset` recognises the layout; naming it is only needed for a folder that holds several.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.hf_dataset import is_hf_dataset, read_hf_dataset
from pipelines.lib.manifest import Clip, clip_to_json, parse_clip_language, read_manifest
from pipelines.lib.readers_more import (
    TABLE_SUFFIXES,
    is_kaldi,
    is_nemo,
    read_kaldi,
    read_nemo,
    read_table,
)
from predictor.errors import InvalidInput

COMMON_VOICE_TAGS = ("age", "gender", "accents", "accent", "variant", "segment")
FLEURS_COLUMNS = ("id", "file", "raw_text", "text", "chars", "num_samples", "gender")
FLEURS_RATE_HZ = 16_000


def read_dataset(
    path: str | Path,
    *,
    layout: str | None = None,
    split: str | None = None,
    language: str | None = None,
) -> list[Clip]:
    """The clips of a manifest file or data set folder.

    `layout` is one of LAYOUTS (None = recognise it), `split` narrows to train/dev/test where the
    layout has splits, `language` is what a data set that does not say its own is in.
    """
    path = Path(path)
    if layout is None:
        layout = detect_layout(path)
    if layout not in LAYOUTS:
        raise OptionError(f"layout: {layout!r} is not one of {', '.join(LAYOUTS)}")
    try:
        spoken = parse_clip_language(language)
    except InvalidInput as error:
        raise OptionError(error.message) from error
    try:
        clips = LAYOUTS[layout](path, split, spoken)
    except (OSError, ValueError, csv.Error) as error:  # not UTF-8, no number, no such file
        reason = str(error).replace("\n", " ")
        raise ManifestError(f"{path}: cannot be read as layout {layout}: {reason}") from error
    if not clips:
        raise ManifestError(f"{path}: no recordings found in layout {layout}, split {split}")
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise ManifestError(f"{path}: id {clip.id!r} is there twice")
        seen.add(clip.id)
        _check_text(path, clip)
    return clips


def _check_text(path: Path, clip: Clip) -> None:
    """JSON can hold halves of characters, which nothing can be written with."""
    try:
        json.dumps(clip_to_json(clip), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ManifestError(f"{path}: id {clip.id!r}: {error}") from error


def detect_layout(path: Path) -> str:
    """The layout of a file or folder, by what lies in it; ManifestError when nothing fits."""
    if path.is_file():
        if path.suffix.lower() in TABLE_SUFFIXES:
            return "table"
        return "nemo" if is_nemo(path) else "manifest"
    if (path / "manifest.jsonl").is_file():
        return "manifest"
    if is_kaldi(path):
        return "kaldi"
    if is_hf_dataset(path):
        return "hf"
    if any(path.glob("transcript/aishell_transcript*.txt")):
        return "aishell"
    if (path / "clips").is_dir() and any(path.glob("*.tsv")):
        return "commonvoice"
    if (path / "audio").is_dir() and any(path.glob("*.tsv")):
        return "fleurs"
    if next(path.rglob("*.trans.txt"), None) is not None:
        return "librispeech"
    raise ManifestError(f"{path}: is no manifest and no known layout ({', '.join(LAYOUTS)})")


def _read_manifest(path: Path, _split: str | None, language: str | None) -> list[Clip]:
    clips = read_manifest(path / "manifest.jsonl" if path.is_dir() else path)
    if language is None:
        return clips
    return [
        replace(clip, language=language) if clip.language is None and clip.text != "" else clip
        for clip in clips
    ]


def _read_librispeech(path: Path, split: str | None, language: str | None) -> list[Clip]:
    """SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside SPEAKER-CHAPTER-N.flac."""
    root = path / split if split else path
    clips = []
    for transcript in sorted(root.rglob("*.trans.txt")):
        speaker, chapter = transcript.name.removesuffix(".trans.txt").split("-")[:2]
        for number, line in _lines(transcript):
            name, _, text = line.partition(" ")
            clips.append(
                Clip(
                    id=name,
                    audio=_existing(transcript.parent / f"{name}.flac", transcript, number),
                    text=text,
                    language=language or "English",
                    speaker=speaker,
                    tags={"chapter": (chapter,)},
                )
            )
    return clips


def _read_aishell(path: Path, split: str | None, language: str | None) -> list[Clip]:
    """transcript/aishell_transcript*.txt, "ID 词 词", beside wav/SPLIT/SPEAKER/ID.wav."""
    transcript = next(iter(sorted(path.glob("transcript/aishell_transcript*.txt"))), None)
    if transcript is None:
        raise ManifestError(f"{path}: has no transcript/aishell_transcript*.txt")
    root = path / "wav" / split if split else path / "wav"
    recordings = {file.stem: file for file in root.rglob("*.wav")}
    clips = []
    for _, line in _lines(transcript):
        name, _, text = line.partition(" ")
        if name in recordings:  # the transcript covers all splits
            recording = recordings[name]
            clips.append(
                Clip(
                    id=name,
                    audio=str(recording.resolve()),
                    text="".join(text.split()),
                    language=language or "Chinese",
                    speaker=recording.parent.name,
                )
            )
    return clips


def _read_fleurs(path: Path, split: str | None, language: str | None) -> list[Clip]:
    """SPLIT.tsv without header beside audio/SPLIT/*.wav; the folder is named like "en_us"."""
    clips = []
    for table in _tables(path, split):
        for number, row in _rows(table, FLEURS_COLUMNS):
            audio = path / "audio" / table.stem / row["file"]
            clips.append(
                Clip(
                    id=f"{table.stem}/{row['file']}",
                    audio=_existing(audio, table, number),
                    text=row["raw_text"],
                    language=language or _folder_language(path),
                    duration_s=int(row["num_samples"]) / FLEURS_RATE_HZ,
                    tags={"gender": (row["gender"].lower(),)} if row["gender"] else {},
                )
            )
    return clips


def _read_common_voice(path: Path, split: str | None, language: str | None) -> list[Clip]:
    """SPLIT.tsv with header beside clips/*.mp3; the locale stands in the table."""
    clips = []
    for table in _tables(path, split or "test"):
        for number, row in _rows(table, None):
            if not row.get("path") or row.get("sentence") is None:
                raise ManifestError(f"{table}:{number}: path and sentence are required columns")
            locale = row.get("locale") or path.name
            clips.append(
                Clip(
                    id=row["path"],
                    audio=_existing(path / "clips" / row["path"], table, number),
                    text=row["sentence"],
                    language=language or _locale_language(locale, f"{table}:{number}: locale"),
                    speaker=row.get("client_id") or None,
                    tags={k: (row[k],) for k in COMMON_VOICE_TAGS if row.get(k)},
                )
            )
    return clips


def _read_hf(path: Path, split: str | None, language: str | None) -> list[Clip]:
    return read_hf_dataset(path, split=split, language=language)


LAYOUTS: dict[str, Callable[[Path, str | None, str | None], list[Clip]]] = {
    "manifest": _read_manifest,
    "librispeech": _read_librispeech,
    "aishell": _read_aishell,
    "fleurs": _read_fleurs,
    "commonvoice": _read_common_voice,
    "hf": _read_hf,
    "nemo": read_nemo,
    "kaldi": read_kaldi,
    "table": read_table,
}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _tables(path: Path, split: str | None) -> list[Path]:
    tables = [path / f"{split}.tsv"] if split else sorted(path.glob("*.tsv"))
    missing = [str(table) for table in tables if not table.is_file()]
    if missing or not tables:
        raise ManifestError(f"{path}: has no table {missing[0] if missing else '*.tsv'}")
    return tables


def _rows(table: Path, columns: tuple[str, ...] | None) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a tab-separated table as dicts; `columns` None = the first line names them."""
    lines = table.read_text(encoding="utf-8-sig").split("\n")
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(rows, start=1):
        if columns is None:
            columns = tuple(row)
        elif row and row != [""]:
            if len(row) != len(columns):
                raise ManifestError(
                    f"{table}:{number}: expected {len(columns)} columns, found {len(row)}"
                )
            yield number, dict(zip(columns, row, strict=True))


def _existing(audio: Path, source: Path, number: int) -> str:
    if not audio.is_file():
        raise ManifestError(f"{source}:{number}: audio {audio} does not exist")
    return str(audio.resolve())


def _folder_language(path: Path) -> str | None:
    return _locale_language(path.name, f"{path}: folder name")


def _locale_language(locale: str, where: str) -> str | None:
    """Language of a locale such as "en_us" or "cmn_hans_cn"; ManifestError for an unknown one."""
    try:
        return parse_clip_language(locale)
    except InvalidInput as error:
        raise ManifestError(f"{where}: {error.message}; say which language it is in") from error
