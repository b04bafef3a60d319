"""The manifest: one JSON object a line, one recording an object.

    {"audio": "clips/1.flac", "text": "what was said", "language": "en", "duration_s": 3.2,
     "speaker": "anna", "noise": "street"}

`audio` (a path relative to the manifest, an absolute path or a URL) and `text` are required. An
empty `text` says that nobody speaks, null that nobody has written down what is said (a sample from
production). `alternatives` are other right ways to write it. Every key beyond those in KEYS is a
tag to slice reports by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.lib.errors import ManifestError
from predictor.errors import InvalidInput
from predictor.text.languages import parse_language

KEYS = (
    "id", "audio", "text", "alternatives", "language", "duration_s", "duration", "speaker",
    "context",
)  # fmt: skip
MIXED_JOINER = "+"  # "Chinese+English": more than one language in the recording
MAX_SECONDS = 1e7  # of one recording
NO_LANGUAGE = ("", "none", "null", "auto")

Tags = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording with what was said in it."""

    id: str  # unique in the manifest
    audio: str  # absolute path or URL
    text: str | None  # the reference as written; empty = nobody speaks, None = not known
    language: str | None = None  # "English", "Chinese+English"; None = unknown or no speech
    duration_s: float | None = None
    speaker: str | None = None
    context: str = ""  # hot words sent with the recording
    alternatives: tuple[str, ...] = ()  # other right ways to write what was said
    tags: Tags = field(default_factory=dict)  # tag -> its values


def parse_clip_language(value: str | None) -> str | None:
    """Canonical name of a language, or several joined by "+" (code-switching) in sorted order.

    Raises InvalidInput from `parse_language` for an unknown name.
    """
    if value is None or value.strip().lower() in NO_LANGUAGE:
        return None
    names = {parse_language(_code(part)) for part in value.split(MIXED_JOINER)}
    return MIXED_JOINER.join(sorted(name for name in names if name)) or None


def _code(tag: str) -> str:
    """What `parse_language` knows of a tag such as "en_us", "cmn_hans_cn" or "zh-HK"."""
    parts = re.split("[-_]", tag.strip().lower())
    if len(parts) == 1 and parts[0] != "cmn":
        return tag
    if "yue" in parts or (parts[0] in ("zh", "cmn") and {"hk", "mo"} & set(parts[1:])):
        return "yue"
    return {"cmn": "zh"}.get(parts[0], parts[0])


def read_manifest(path: str | Path) -> list[Clip]:
    """The clips of a JSONL file, in order.

    Raises ManifestError with file, line and key for anything wrong in it.
    """
    path = Path(path)
    clips: list[Clip] = []
    seen: dict[str, int] = {}
    for number, entry in read_objects(path):
        clip = _Entry(path, number, entry).clip()
        if clip.id in seen:
            raise ManifestError(
                f"{path}:{number}: id {clip.id!r} is already used on line {seen[clip.id]}"
            )
        seen[clip.id] = number
        clips.append(clip)
    if not clips:
        raise ManifestError(f"{path}: holds no recordings")
    return clips


def write_manifest(path: str | Path, clips: Iterable[Clip]) -> None:
    """Write JSONL that `read_manifest` reads back equal, paths relative where they are below."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    with path.open("w", encoding="utf-8") as file:
        for clip in clips:
            file.write(json.dumps(clip_to_json(clip, folder), ensure_ascii=False) + "\n")


def clip_to_json(clip: Clip, folder: Path | None = None) -> dict[str, object]:
    """The manifest's object for a clip; audio below `folder` is written relative to it."""
    audio = clip.audio
    if folder is not None and not is_url(audio) and Path(audio).is_relative_to(folder):
        audio = Path(audio).relative_to(folder).as_posix()
    entry: dict[str, object] = {"id": clip.id, "audio": audio, "text": clip.text}
    optional = {
        "language": clip.language,
        "duration_s": clip.duration_s,
        "speaker": clip.speaker,
        "context": clip.context or None,
        "alternatives": list(clip.alternatives) or None,
    }
    entry |= {key: value for key, value in optional.items() if value is not None}
    entry |= {key: v[0] if len(v) == 1 else list(v) for key, v in clip.tags.items()}
    return entry


def digest(clips: Sequence[Clip]) -> str:
    """A fingerprint of what is asked and expected; where the audio lies does not count."""
    return _fingerprint([c.id, c.text, c.language, c.context, *c.alternatives] for c in clips)


def asked_digest(clips: Sequence[Clip]) -> str:
    """A fingerprint of what is asked alone: references may be corrected afterwards."""
    return _fingerprint([c.id, c.language, c.context] for c in clips)


def _fingerprint(rows: Iterable[Sequence[str | None]]) -> str:
    lines = [json.dumps(list(row), ensure_ascii=False) for row in rows]
    return sha256("\n".join(lines).encode()).hexdigest()


def is_url(audio: str) -> bool:
    """Whether `audio` is a URL of a scheme other than file."""
    return "://" in audio and not audio.startswith("file://")


def resolve_audio(audio: str, folder: Path, where: str) -> str:
    """An absolute path for a path or file URL, the URL itself for any other URL.

    Raises ManifestError, beginning with `where`, for what no file can be called.
    """
    if is_url(audio):
        return audio
    if audio.startswith("file://"):
        audio = unquote(urlsplit(audio).path)
    try:
        return str((folder / audio).resolve())
    except (OSError, ValueError) as error:
        raise ManifestError(f"{where}: audio {audio[:80]!r}: {error}") from error


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Line number and object of every line of a JSONL file; ManifestError for anything else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    # splitlines() would also cut at U+2028, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # also numbers and nesting beyond all reason
            raise ManifestError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise ManifestError(f"{path}:{number}: expected an object, found {line[:40]!r}")
        yield number, entry


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line while it is read: knows where it stands, so that errors can say so."""

    path: Path
    number: int
    values: dict[str, object]

    def clip(self) -> Clip:
        audio = self._string("audio", required=True)
        if not audio:
            raise self._error("audio", "must not be empty")
        return Clip(
            id=self._string("id") or audio,
            audio=resolve_audio(audio, self.path.parent.resolve(), f"{self.path}:{self.number}"),
            text=self._text(),
            language=self._language(),
            duration_s=self._duration(),
            speaker=self._string("speaker") or None,
            context=self._string("context"),
            alternatives=self._alternatives(),
            tags={
                k: self._tag(k, v)
                for k, v in self.values.items()
                if k not in KEYS and v is not None
            },
        )

    def _text(self) -> str | None:
        if "text" in self.values and self.values["text"] is None:
            return None
        return self._string("text", required=True)

    def _string(self, key: str, *, required: bool = False) -> str:
        value = self.values.get(key)
        if required and key not in self.values:
            raise self._error(key, "is missing")
        if value is None and not required:
            return ""
        if not isinstance(value, str):
            raise self._error(key, f"expected a string, found {value!r}")
        return value

    def _language(self) -> str | None:
        try:
            return parse_clip_language(self._string("language"))
        except InvalidInput as error:
            raise self._error("language", error.message) from error

    def _alternatives(self) -> tuple[str, ...]:
        value = self.values.get("alternatives") or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error("alternatives", f"expected a list of strings, found {value!r}")
        return tuple(value)

    def _duration(self) -> float | None:
        value = self.values.get("duration_s", self.values.get("duration"))
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value < MAX_SECONDS
        ):
            raise self._error("duration_s", f"expected seconds of at least 0, found {value!r}")
        return float(value)

    def _tag(self, key: str, value: object) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float | bool) for item in values):
            raise self._error(key, f"a tag is a string, number or list of them, found {value!r}")
        return tuple(item if isinstance(item, str) else json.dumps(item) for item in values)

    def _error(self, key: str, problem: str) -> ManifestError:
        return ManifestError(f"{self.path}:{self.number}: {key}: {problem}")
