"""kill -9 at any moment: nothing is lost, and no piece that was kept is transcribed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor.jobs.store import JobLimits, JobStore
from tests.api.conftest import Server, StartServer
from tests.jobs.conftest import Job, Jobs, nearly, until

LIMITS = JobLimits(max_jobs=100, max_bytes=1 << 30, ttl_s=3600)
FLAGS = ("--segment_s=3", "--job_lease_s=1", "--log_level=debug")


def _kill(server: Server) -> None:
    server.process.kill()
    server.process.wait(timeout=60)
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


@pytest.mark.parametrize("kills", [(0, 1, 9)])
def test_killed_servers_lose_no_job_and_do_no_kept_piece_again(
    start_server: StartServer,
    tmp_path: Path,
    wav: Callable[..., bytes],
    talk: Callable[..., np.ndarray],
    kills: tuple[int, ...],
) -> None:
    """Killed when so many pieces are done, and at once after the answer that a job is stored."""
    recording = wav(talk(60.0))
    folder, job_id = tmp_path / "jobs", ""
    kept: set[int] = set()
    for num_pieces in kills:
        server = start_server(f"--jobs_dir={folder}", *FLAGS)
        with Jobs(server) as jobs:
            job_id = job_id or jobs.made(recording)
            shown = _when_done(jobs, job_id, num_pieces)["segments"]
        _kill(server)
        assert not kept & set(_done_by(server, job_id))
        kept = _stored(folder, job_id)
        assert {piece["id"] for piece in shown} <= kept
    server = start_server(f"--jobs_dir={folder}", *FLAGS)
    with Jobs(server) as jobs:
        jobs.done(job_id)
        expected: Any = jobs.transcription(recording, response_format="verbose_json").json()
        assert jobs.result(job_id, "verbose_json").json() == nearly(expected)
    assert len(kept) > 9
    assert sorted([*kept, *_done_by(server, job_id)]) == sorted(_stored(folder, job_id))
    assert not list((folder / "audio").iterdir())


def test_two_servers_on_one_folder_do_each_piece_once(
    start_server: StartServer,
    tmp_path: Path,
    wav: Callable[..., bytes],
    talk: Callable[..., np.ndarray],
) -> None:
    """Replicas on a shared volume; one is killed and the other takes its job over."""
    servers = [start_server(f"--jobs_dir={tmp_path}", *FLAGS) for _ in range(2)]
    with Jobs(servers[0]) as first, Jobs(servers[1]) as second:
        job_ids = [first.made(wav(talk(30.0, seed=seed))) for seed in range(4)]
        begun = until(
            lambda: {"begun": [_done_by(server, "") for server in servers], "status": ""},
            lambda found: any(found["begun"]),
        )["begun"]
        killed = 0 if begun[0] else 1  # one that works on a job; the other may not have one yet
        _kill(servers[killed])
        for job_id in job_ids:
            (second, first)[killed].done(job_id)
            done = Counter(_done_by(servers[0], job_id) + _done_by(servers[1], job_id))
            assert max(done.values()) == 1
            # A line of the one that was killed may be missing.
            assert len(_stored(tmp_path, job_id)) - len(done) in (0, 1)


def test_several_fronts_have_one_runner_for_a_job(
    start_server: StartServer,
    tmp_path: Path,
    wav: Callable[..., bytes],
    talk: Callable[..., np.ndarray],
) -> None:
    server = start_server(
        f"--jobs_dir={tmp_path}", "--num_front_processes=2", "--engine_process=true", *FLAGS
    )
    with Jobs(server) as jobs:
        job_ids = [jobs.made(wav(talk(15.0, seed=seed))) for seed in range(3)]
        for job_id in job_ids:
            jobs.done(job_id)
            done = _done_by(server, job_id)
            assert sorted(done) == sorted(set(done))
            assert set(done) == _stored(tmp_path, job_id)
