"""kill -9 at any moment: nothing is lost, and no piece that was kept is transcribed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from predictor.jobs.store import JobLimits, JobStore
from tests.api.conftest import Server, StartServer
from tests.jobs.conftest import Job, Jobs, nearly, until

LIMITS = JobLimits(max_jobs=100, max_bytes=1 << 30, ttl_s=3600)
FLAGS = ("--segment_s=3", "--job_lease_s=1", "--log_level=debug")


def _kill(server: Server) -> None:
    server.process.kill()
    server.process.wait(timeout=600)
    assert server.reader is not None
    server.reader.join(timeout=60)


def _done_by(server: Server, job_id: str) -> list[int]:
    """Positions of a job's pieces that this server transcribed and kept; of all jobs for ""."""
    lines = [line for line in server.lines if line["message"] == "a piece was transcribed"]
    return [line["position"] for line in lines if job_id in ("", line["job"])]


def _when_done(jobs: Jobs, job_id: str, num_pieces: int) -> Job:
    return until(lambda: jobs.job(job_id), lambda job: len(job["segments"]) >= num_pieces)


def _stored(folder: Path, job_id: str) -> set[int]:
    """Positions of the pieces that are kept, once nobody works on them."""
    store = JobStore(folder, LIMITS)
    try:
        return set(store.pieces(job_id))
    finally:
        store.close()


def test_killed_servers_lose_no_job_and_do_no_kept_piece_again(
    start_server: StartServer,
    tmp_path: Path,
    wav: Callable[..., bytes],
    talk: Callable[..., np.ndarray],
) -> None:
    """Killed in the middle of a job, when another was just stored; two others then share them.

    One of these is killed as well, and the last one, which has several fronts, takes its work over.
    """
    folder, long, short = tmp_path / "jobs", wav(talk(45.0)), wav(talk(12.0))
    flags = (f"--jobs_dir={folder}", *FLAGS)
    first = start_server(*flags)
    with Jobs(first) as jobs:
        job_ids = [jobs.made(long)]
        shown = _when_done(jobs, job_ids[0], 2)["segments"]
        job_ids.append(jobs.made(short))
    _kill(first)
    kept = _stored(folder, job_ids[0])
    assert {piece["id"] for piece in shown} <= kept

    last = start_server(*flags, "--num_front_processes=2", "--engine_process=true")
    second = start_server(*flags)
    with Jobs(second) as jobs, Jobs(last) as rest:
        job_ids += [jobs.made(long) for _ in range(2)]
        until(
            lambda: {"begun": _done_by(second, ""), "status": ""},
            lambda found: bool(found["begun"]),
        )
        _kill(second)
        job_ids.append(rest.made(short))
        for job_id in job_ids:
            rest.done(job_id)
        for audio, job_id in ((long, job_ids[0]), (short, job_ids[1])):
            expected: Any = rest.transcription(audio, response_format="verbose_json").json()
            assert rest.result(job_id, "verbose_json").json() == nearly(expected)

    assert not kept & {*_done_by(last, job_ids[0]), *_done_by(second, job_ids[0])}
    for job_id in job_ids:
        done = [
            position for server in (first, second, last) for position in _done_by(server, job_id)
        ]
        assert max(Counter(done).values()) == 1
        # The last line of one that was killed may be missing.
        assert len(_stored(folder, job_id)) - len(done) in (0, 1)
    assert not list((folder / "audio").iterdir())
