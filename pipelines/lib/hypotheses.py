"""Transcripts of other systems, scored as ours are: JSONL, CTM, sclite's trn, Kaldi's text.

A recording is found by its id, else by the name of its file with or without ending.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.lib.defaults import HYPOTHESIS_FORMS
from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip

ID_KEYS = ("id", "utt_id", "key", "audio_filepath", "audio", "file_name", "path")
TEXT_KEYS = ("hypothesis", "pred_text", "prediction", "transcript", "text")
MISSING = "no_hypothesis"
MAX_NAMED = 5
_TRN = re.compile(r"^(.*)\(([^()\s]+)\)\s*$")

Found = Iterator[tuple[int, str, str, dict[str, Any]]]  # line, name, text, more fields of a Record


def read_hypotheses(path: Path, clips: Sequence[Clip], form: str | None = None) -> list[Record]:
    """A record for every clip, in order; one without a hypothesis counts as failed.

    `form` is one of FORMS (None = by the file's ending). Raises ManifestError for a file that
    cannot be read, a recording named twice, and names that no clip has.
    """
    form = form or path.suffix.removeprefix(".").lower()
    if form not in FORMS:
        raise OptionError(f"form: {form!r} of {path} is not one of {', '.join(FORMS)}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    names = _names(clips)
    found: dict[str, Record] = {}
    strangers: list[str] = []
    for number, name, text, more in FORMS[form](path, lines):
        clip_id = names.get(name) or names.get(PurePosixPath(name).name)
        if clip_id is None:
            strangers.append(name)
        elif clip_id in found:
            raise ManifestError(f"{path}:{number}: {name!r} was already there")
        else:
            found[clip_id] = Record(clip_id, text, **more)
    if strangers:
        listed = ", ".join(repr(name) for name in strangers[:MAX_NAMED])
        known = " or ".join(repr(name) for name in dict.fromkeys((clips[0].id, clips[0].audio)))
        raise ManifestError(
            f"{path}: {len(strangers)} names are of no recording: {listed}; "
            f"the first recording is {known}"
        )
    return [found.get(clip.id) or Record(clip.id, "", error=MISSING) for clip in clips]


def _names(clips: Sequence[Clip]) -> dict[str, str | None]:
    """Every name that one clip alone has."""
    names: dict[str, str | None] = {}
    for clip in clips:
        file = PurePosixPath(clip.audio)
        for name in {clip.id, clip.audio, file.name, file.stem}:
            names[name] = clip.id if names.setdefault(name, clip.id) == clip.id else None
    return names


def _jsonl(path: Path, lines: Sequence[str]) -> Found:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = next(str(entry[key]) for key in ID_KEYS if entry.get(key))
            text = next(entry[key] for key in TEXT_KEYS if isinstance(entry.get(key), str))
        except (ValueError, StopIteration, AttributeError) as error:
            raise ManifestError(
                f"{path}:{number}: expected an object with one of {', '.join(ID_KEYS)} and one of "
                f"{', '.join(TEXT_KEYS)}"
            ) from error
        more = {k: entry[k] for k in ("language", "confidence", "latency_s") if entry.get(k)}
        yield number, name, text, more


def _trn(path: Path, lines: Sequence[str]) -> Found:
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        found = _TRN.match(line)
        if found is None:
            raise ManifestError(f"{path}:{number}: does not end in (utterance)")
        yield number, found[2], found[1].strip(), {}


def _kaldi(path: Path, lines: Sequence[str]) -> Found:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name, _, text = line.strip().partition(" ")
            yield number, name, text.strip(), {}


def _ctm(path: Path, lines: Sequence[str]) -> Found:
    """file channel start duration word [confidence]; words in the order of their starts."""
    words: dict[str, list[tuple[float, int, str]]] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            name, start, word = fields[0], float(fields[2]), fields[4]
        except (IndexError, ValueError) as error:
            raise ManifestError(
                f"{path}:{number}: expected file, channel, start, duration and word"
            ) from error
        words.setdefault(name, []).append((start, number, word))
    for name, said in words.items():
        yield said[0][1], name, " ".join(word for _, _, word in sorted(said)), {}


FORMS: dict[str, Callable[[Path, Sequence[str]], Found]] = dict(
    zip(HYPOTHESIS_FORMS, (_jsonl, _ctm, _trn, _kaldi), strict=True)
)
