"""The journal of a transcription run: JSONL on disk that a killed run continues from.

First a header that says what was asked, then one line for each finished recording. A line is
complete or it does not count: a run killed while writing loses one recording.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from pipelines.lib.errors import JournalError
from pipelines.lib.identity import Identity

VERSION = 2
SERVICE = "service"  # key of the header: who answers, and at which address


@dataclass(frozen=True, slots=True)
class Record:
    """One recording's outcome: an answer, or the error that was final."""

    clip_id: str
    text: str
    language: str | None = None
    confidence: float | None = None
    duration_s: float | None = None
    finish_reason: str | None = None
    num_repeats_removed: int | None = None
    latency_s: float | None = None
    ttft_s: float | None = None
    num_attempts: int = 1
    started_at: float = 0.0  # Unix time of the request, seconds
    error: str | None = None  # the service's stable code
    error_message: str | None = None
    drafted: bool | None = None  # another version's transcript was sent along
    segments: list[dict[str, Any]] | None = None  # kept for archives only


class Journal:
    """Append-only file of records; `records` holds what earlier sessions finished."""

    def __init__(self, file: TextIO, records: dict[str, Record]) -> None:
        self._file = file
        self.records = records

    @classmethod
    def open(cls, path: Path, header: dict[str, Any]) -> Self:
        """Start a journal, or continue the one on disk if it was for the same `header`.

        Raises JournalError naming the first key that differs, or when another run has it open.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A name that is no text is bytes: JSON says such a byte as \udcXX.
            file = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise JournalError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            _lock(path, file)
            lines = _complete_lines(path)
            header = {"version": VERSION, **header}
            if lines:
                _check_header(path, lines[0], header)
            records = [_record(line) for line in lines[1:] if "clip_id" in line]
        except BaseException:
            file.close()
            raise
        journal = cls(file, {r.clip_id: r for r in records if r.error is None})
        if not lines:
            journal._write(header)
        return journal

    def add(self, record: Record) -> None:
        """Write a record through to the operating system; it survives the process's death."""
        self._write({k: v for k, v in asdict(record).items() if v is not None})
        self.records[record.clip_id] = record

    def forget(self, clip_ids: Iterable[str]) -> None:
        """Take recordings as not asked yet; what is added for them counts from then on."""
        for clip_id in clip_ids:
            self.records.pop(clip_id, None)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


def read_journal(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """Header and records (the last of each recording). Raises JournalError for another file."""
    lines = _complete_lines(path)
    if not lines or lines[0].get("version") != VERSION:
        raise JournalError(f"{path}: is no transcription journal of version {VERSION}")
    records = {line["clip_id"]: _record(line) for line in lines[1:] if "clip_id" in line}
    return lines[0], list(records.values())


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of the journal; a torn last line is cut off the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    lines = []
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise JournalError(f"{path}:{number}: not JSON: {error}") from error
    return lines


def _lock(path: Path, file: TextIO) -> None:
    """Held until the file is closed, by whatever end of the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(
            f"{path}: is being written by another run; wait for it or choose another output folder"
        ) from error
    except OSError:
        return  # a file system without locks: nothing can be promised there


def _check_header(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in wanted:
        if key == SERVICE:
            _check_service(path, found.get(SERVICE) or {}, wanted[SERVICE])
        elif found.get(key) != wanted[key]:
            raise JournalError(
                f"{path}: was written with {key} {found.get(key)!r}, this run has "
                f"{wanted[key]!r}; choose another output folder or remove the file"
            )


def _check_service(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The same model may answer from elsewhere; without a name for it, only the same address."""
    identity = Identity(**wanted["identity"])
    before = found.get("identity", {})
    changed = identity.difference(before)
    named = identity.known and (before.get("checkpoint") or before.get("details"))
    if changed is None and not named and found.get("address") != wanted["address"]:
        changed = f"address {found.get('address')!r}, now {wanted['address']!r}"
    if changed is not None:
        raise JournalError(
            f"{path}: was answered by another service ({changed}); choose another output folder or "
            "remove the file"
        )


def _record(line: dict[str, Any]) -> Record:
    return Record(**line)


def wall_time_s(records: Sequence[Record]) -> float:
    """Seconds in which at least one request was under way; pauses between runs do not count."""
    spans = sorted(
        (r.started_at, r.started_at + r.latency_s) for r in records if r.latency_s is not None
    )
    total = 0.0
    covered_to = float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
    return total
