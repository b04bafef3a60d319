"""What is read of the store's rows, and how much room its limits leave."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import orjson

from predictor.errors import Overloaded, PayloadTooLarge
from predictor.jobs.records import JobRecord, end_of, spec_of


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What the store may hold."""

    max_jobs: int
    max_bytes: int  # of recordings and transcripts together
    ttl_s: float  # after a job has ended
    lease_s: float = 30.0  # without a sign of life from the runner


def check_room(
    connection: sqlite3.Connection,
    limits: JobLimits,
    now_s: float,
    num_bytes: int,
    num_more: int = 1,
) -> None:
    """For so many more jobs and bytes; jobs that ended long ago go first.

    Raises PayloadTooLarge, Overloaded.
    """
    if num_bytes > limits.max_bytes:
        raise PayloadTooLarge(
            f"file: {num_bytes} bytes exceed max_jobs_bytes of {limits.max_bytes}",
            field="file",
            value=num_bytes,
            limit=limits.max_bytes,
        )
    connection.execute("DELETE FROM jobs WHERE ended_s <= ?", (now_s - limits.ttl_s,))
    num_jobs, stored = connection.execute(
        "SELECT count(*), coalesce(sum(stored_bytes), 0) FROM jobs"
    ).fetchone()
    if num_jobs + num_more > limits.max_jobs:
        raise Overloaded(
            f"{num_jobs} jobs are stored, the limit max_jobs is {limits.max_jobs}: "
            "delete some that are done",
            retry_after_s=60,
        )
    if stored + num_bytes > limits.max_bytes:
        raise Overloaded(
            f"jobs hold {stored} bytes; {num_bytes} more are over the limit max_jobs_bytes "
            f"of {limits.max_bytes}",
            retry_after_s=60,
        )


def progress(connection: sqlite3.Connection, job_id: str) -> tuple[int, float]:
    """Pieces that are there without a gap, and seconds of the recording up to there."""
    num_done, done_s = connection.execute(
        "SELECT num_done, done_s FROM jobs WHERE id = ?", (job_id,)
    ).fetchone()
    rows = connection.execute(
        "SELECT position, end_s FROM pieces WHERE job_id = ? AND position >= ? ORDER BY position",
        (job_id, num_done),
    )
    for position, end_s in rows:
        if position != num_done:
            break
        num_done, done_s = num_done + 1, max(done_s, end_s)
    return num_done, done_s


def record_of(row: sqlite3.Row) -> JobRecord:
    """A job as its row says."""
    is_done = row["state"] == "done"
    return JobRecord(
        id=row["id"],
        owner=row["owner"],
        state=row["state"],
        created_s=row["created_s"],
        ended_s=row["ended_s"],
        num_bytes=row["num_bytes"],
        num_done=row["num_done"],
        done_s=row["duration_s"] if is_done else row["done_s"],
        duration_s=row["duration_s"],
        spec=spec_of(row["spec"]),
        error=None if row["error"] is None else orjson.loads(row["error"]),
        end=None if row["audio_end"] is None else end_of(row["audio_end"]),
    )
