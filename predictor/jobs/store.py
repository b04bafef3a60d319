"""Jobs on disk: SQLite for what is known of them, a file for each recording.

A process may end between any two lines: a recording is whole on disk before its job is, a piece
is there or not, and files that belong to no job are swept. Runners hold a job by a lease: every
write on its behalf needs it, and who takes it over after it ran out makes the old holder's fail.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from predictor.errors import NotFound, Overloaded
from predictor.jobs.disk import refusing_when_full, write_whole
from predictor.jobs.records import (
    JobRecord,
    JobSpec,
    end_to_json,
    piece_of,
    piece_to_json,
    spec_to_json,
)
from predictor.jobs.rows import JobLimits, check_room, progress, record_of
from predictor.jobs.schema import connect, transaction
from predictor.text.joining import Piece
from predictor.types import AudioEnd

__all__ = ["JobLimits", "JobStore", "LeaseLostError"]

_ORPHAN_S: Final = 3600.0  # a file without a job is younger while its job is being made
_UNFINISHED: Final = "state IN ('queued', 'running')"


class LeaseLostError(Exception):
    """The job was deleted, or another runner has taken it over."""


class JobStore:
    """The jobs of one directory, which several processes may share. Its calls block."""

    def __init__(
        self, folder: Path, limits: JobLimits, clock: Callable[[], float] = time.time
    ) -> None:
        """Make or open it. Raises OSError and sqlite3.Error where that cannot be."""
        self._audio = folder / "audio"
        self._audio.mkdir(parents=True, exist_ok=True)
        self.limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._connection = connect(folder / "jobs.sqlite3")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def add(self, owner: str, data: bytes | memoryview, spec: JobSpec) -> JobRecord:
        """A new job, safe on disk; without data where the recording is to be fetched.

        Raises PayloadTooLarge, Overloaded.
        """
        self.check_room(len(data))
        job_id = uuid.uuid4().hex
        if not spec.url:
            with refusing_when_full():
                write_whole(self.audio_path(job_id), data)
        row = (job_id, owner, "queued", self._clock(), len(data), len(data), spec_to_json(spec))
        try:
            with self._transaction() as connection:
                check_room(connection, self.limits, self._clock(), len(data))
                connection.execute(
                    "INSERT INTO jobs (id, owner, state, created_s, num_bytes, stored_bytes, spec)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
        except Overloaded:
            self.audio_path(job_id).unlink(missing_ok=True)
            raise
        return self.job(owner, job_id)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state, everybody's."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        return dict.fromkeys(("queued", "running", "done", "failed"), 0) | dict(rows)

    def check_room(self, num_bytes: int) -> None:
        """Raises PayloadTooLarge, Overloaded."""
        with self._transaction() as connection:
            check_room(connection, self.limits, self._clock(), num_bytes)

    def job(self, owner: str, job_id: str) -> JobRecord:
        """One of this owner's. Raises NotFound."""
        for record in self._select("id = ? AND owner = ?", (job_id, owner)):
            return record
        raise NotFound(f"no such job: {job_id[:60]!r}")

    def jobs(self, owner: str) -> list[JobRecord]:
        """All of this owner's, newest first."""
        return self._select("owner = ? ORDER BY created_s DESC, id", (owner,))

    def delete(self, owner: str, job_id: str) -> None:
        """Forget a job, whatever its state. Raises NotFound."""
        with self._transaction() as connection:
            deleted = connection.execute(
                "DELETE FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)
            )
            if not deleted.rowcount:
                raise NotFound(f"no such job: {job_id[:60]!r}")
        self.audio_path(job_id).unlink(missing_ok=True)

    def pieces(self, job_id: str) -> dict[int, Piece]:
        """Position in the recording -> what was transcribed so far."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT position, piece FROM pieces WHERE job_id = ? ORDER BY position", (job_id,)
            ).fetchall()
        return {row["position"]: piece_of(row["piece"]) for row in rows}

    def audio_path(self, job_id: str) -> Path:
        """Where a job's recording lies until it has ended."""
        return self._audio / job_id

    # For runners

    def take(self, holder: str) -> JobRecord | None:
        """The oldest job that nobody holds, for `holder` from now on."""
        now = self._clock()
        with self._transaction() as connection:
            row = connection.execute(
                f"SELECT id FROM jobs WHERE {_UNFINISHED} AND held_until_s <= ?"  # noqa: S608  constants of this file
                " ORDER BY created_s, id LIMIT 1",
                (now,),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE jobs SET state = 'running', holder = ?, held_until_s = ?,"
                " num_takes = num_takes + 1 WHERE id = ?",
                (holder, now + self.limits.lease_s, row["id"]),
            )
        return next(iter(self._select("id = ?", (row["id"],))), None)

    def num_takes(self, job_id: str) -> int:
        """How often it was taken since it last got ahead."""
        with self._lock:
            row = self._connection.execute(
                "SELECT num_takes FROM jobs WHERE id = ?", (job_id,)
            ).fetchone()
        return 0 if row is None else int(row["num_takes"])

    def renew(self, job_id: str, holder: str) -> None:
        """A sign of life. Raises LeaseLostError."""
        with self._held(job_id, holder):
            pass

    def set_size(self, job_id: str, holder: str, num_bytes: int) -> None:
        """A recording was fetched. Raises LeaseLostError, Overloaded, PayloadTooLarge."""
        with self._held(job_id, holder) as connection:
            check_room(connection, self.limits, self._clock(), num_bytes, num_more=0)
            connection.execute(
                "UPDATE jobs SET stored_bytes = stored_bytes - num_bytes + ?, num_bytes = ?"
                " WHERE id = ?",
                (num_bytes, num_bytes, job_id),
            )

    def set_duration(self, job_id: str, holder: str, duration_s: float) -> None:
        """What the recording says of its length. Raises LeaseLostError."""
        with self._held(job_id, holder) as connection:
            connection.execute("UPDATE jobs SET duration_s = ? WHERE id = ?", (duration_s, job_id))

    def add_piece(self, job_id: str, holder: str, position: int, piece: Piece) -> None:
        """Keep a transcribed piece. Raises LeaseLostError."""
        text = piece_to_json(piece)
        with self._held(job_id, holder) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?, ?)",
                (job_id, position, piece.end_s, text),
            )
            num_done, done_s = progress(connection, job_id)
            connection.execute(
                "UPDATE jobs SET num_takes = 0, stored_bytes = stored_bytes + ?, num_done = ?,"
                " done_s = ? WHERE id = ?",
                (len(text), num_done, done_s, job_id),
            )

    def give_back(
        self, job_id: str, holder: str, *, has_failed: bool = False, wait_s: float = 0.0
    ) -> None:
        """Others may go on after `wait_s`; jobs that `has_failed` are not taken for ever.

        Raises LeaseLostError.
        """
        with self._held(job_id, holder) as connection:
            connection.execute(
                "UPDATE jobs SET state = 'queued', holder = NULL, held_until_s = ?,"
                " num_takes = max(0, num_takes - ?) WHERE id = ?",
                (self._clock() + wait_s if wait_s else 0.0, 0 if has_failed else 1, job_id),
            )

    def finish(self, job_id: str, holder: str, end: AudioEnd, num_pieces: int) -> None:
        """All pieces are there. Raises LeaseLostError."""
        with self._held(job_id, holder) as connection:
            connection.execute(
                "DELETE FROM pieces WHERE job_id = ? AND position >= ?", (job_id, num_pieces)
            )
            connection.execute(
                "UPDATE jobs SET audio_end = ?, duration_s = ? WHERE id = ?",
                (end_to_json(end), end.duration_s, job_id),
            )
            self._end(connection, job_id, "done")
        self.audio_path(job_id).unlink(missing_ok=True)

    def fail(self, job_id: str, holder: str, error: Mapping[str, Any]) -> None:
        """It cannot be done. Raises LeaseLostError."""
        with self._held(job_id, holder) as connection:
            connection.execute(
                "UPDATE jobs SET error = ? WHERE id = ?", (orjson.dumps(error), job_id)
            )
            self._end(connection, job_id, "failed")
        self.audio_path(job_id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove jobs that ended long ago, and files that no job needs."""
        now = self._clock()
        with self._transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE ended_s <= ?", (now - self.limits.ttl_s,))
            rows = connection.execute(f"SELECT id FROM jobs WHERE {_UNFINISHED}")  # noqa: S608  constants of this file
            needed = {row["id"] for row in rows}
        for path in self._audio.iterdir():
            try:
                is_old = path.stat().st_mtime <= now - _ORPHAN_S
                if is_old and path.name not in needed:
                    path.unlink()
            except FileNotFoundError:  # another process swept it
                continue

    # For whoever tells others of jobs that ended

    def take_notice(self, wait_s: Callable[[int], float]) -> tuple[JobRecord, int] | None:
        """A job of which somebody is to be told now, and how often that was tried; nobody else
        tells it before `wait_s` of that number has passed."""
        now = self._clock()
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT job_id, num_tries FROM notices WHERE state = 'pending' AND next_s <= ?"
                " ORDER BY next_s LIMIT 1",
                (now,),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE notices SET num_tries = num_tries + 1, next_s = ? WHERE job_id = ?",
                (now + wait_s(row["num_tries"]), row["job_id"]),
            )
        found = self._select("id = ?", (row["job_id"],))
        return (found[0], row["num_tries"]) if found else None

    def settle_notice(self, job_id: str, *, is_heard: bool) -> None:
        """Nobody need be told any more."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE notices SET state = ? WHERE job_id = ?",
                ("delivered" if is_heard else "failed", job_id),
            )

    def notice_state(self, job_id: str) -> str | None:
        """Whether the end of a job was told: pending, delivered or failed; None before its end."""
        with self._lock:
            row = self._connection.execute(
                "SELECT state FROM notices WHERE job_id = ?", (job_id,)
            ).fetchone()
        return None if row is None else str(row["state"])

    def _end(self, connection: sqlite3.Connection, job_id: str, state: str) -> None:
        connection.execute(
            "UPDATE jobs SET state = ?, ended_s = ?, stored_bytes = stored_bytes - num_bytes,"
            " holder = NULL WHERE id = ?",
            (state, self._clock(), job_id),
        )
        [record] = self._rows(connection, "id = ?", (job_id,))
        if record.spec.webhook:
            connection.execute(
                "INSERT OR IGNORE INTO notices (job_id, next_s) VALUES (?, ?)",
                (job_id, self._clock()),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, refusing_when_full(), transaction(self._connection) as connection:
            yield connection

    @contextmanager
    def _held(self, job_id: str, holder: str) -> Iterator[sqlite3.Connection]:
        """A transaction of the job's holder, whose lease begins anew."""
        with self._transaction() as connection:
            renewed = connection.execute(
                f"UPDATE jobs SET held_until_s = ? WHERE id = ? AND holder = ? AND {_UNFINISHED}",  # noqa: S608  constants of this file
                (self._clock() + self.limits.lease_s, job_id, holder),
            )
            if not renewed.rowcount:
                raise LeaseLostError(job_id)
            yield connection

    def _select(self, where: str, values: tuple[Any, ...]) -> list[JobRecord]:
        with self._lock:
            return self._rows(self._connection, where, values)

    @staticmethod
    def _rows(
        connection: sqlite3.Connection, where: str, values: tuple[Any, ...]
    ) -> list[JobRecord]:
        query = f"SELECT * FROM jobs WHERE {where}"  # noqa: S608  constants of this file
        return [record_of(row) for row in connection.execute(query, values).fetchall()]
