"""The tables of the store, and one connection to them.

A rollback journal and not a write-ahead log: that one needs shared memory, which processes on
several machines before one volume do not have.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_BUSY_S: Final = 30.0
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    created_s REAL NOT NULL,
    ended_s REAL,
    num_bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    num_done INTEGER NOT NULL DEFAULT 0,
    done_s REAL NOT NULL DEFAULT 0,
    duration_s REAL,
    spec TEXT NOT NULL,
    error TEXT,
    audio_end TEXT,
    holder TEXT,
    held_until_s REAL NOT NULL DEFAULT 0,
    num_takes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS pieces (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    end_s REAL NOT NULL,
    piece TEXT NOT NULL,
    PRIMARY KEY (job_id, position)
);
CREATE TABLE IF NOT EXISTS notices (
    job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    num_tries INTEGER NOT NULL DEFAULT 0,
    next_s REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending'
);
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time; the tables are there."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    with transaction(connection):
        for statement in filter(str.strip, _TABLES.split(";")):
            connection.execute(statement)
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing; nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite may have taken it back, on a full disk
            connection.execute("ROLLBACK")
        raise
