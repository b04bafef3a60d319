"""kill -9 at any moment: nothing is lost, and nothing is transcribed twice but what was under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.conftest import Server, StartServer
from tests.jobs.conftest import Jobs, until

FLAGS = ("--segment_s=2", "--job_lease_s=1", "--log_level=debug")
AT_ONCE = 8  # pieces of one job


def _kill(server: Server) -> None:
    server.process.kill()
    server.process.wait(timeout=60)
    assert server.reader is not None
    server.reader.join(timeout=60)


def _kept(server: Server) -> list[int]:
    lines = [line for line in server.lines if line["message"] == "a piece was transcribed"]
    return [line["position"] for line in lines]


@pytest.mark.parametrize("kills", [(0, 1, 9)])
def test_killed_servers_lose_no_job_and_do_no_piece_twice(
    start_server: StartServer,
    tmp_path: Path,
    wav: Callable[..., bytes],
    talk: Callable[..., np.ndarray],
    kills: tuple[int, ...],
) -> None:
    """Killed when so many pieces are done, and at once after the answer that a job is stored."""
    recording = wav(talk(60.0))
    folder, positions, job_id = tmp_path / "jobs", Counter[int](), ""
    for num_pieces in kills:
        server = start_server(f"--jobs_dir={folder}", *FLAGS)
        jobs = Jobs(server)
        job_id = job_id or jobs.made(recording)
        until(lambda: jobs.job(job_id), lambda job: len(job["segments"]) >= num_pieces)  # noqa: B023
        before = {piece["id"] for piece in jobs.job(job_id)["segments"]}
        _kill(server)
        positions.update(_kept(server))
        assert before <= set(positions)
    server = start_server(f"--jobs_dir={folder}", *FLAGS)
    jobs = Jobs(server)
    jobs.done(job_id)
    expected: Any = jobs.transcription(recording, response_format="verbose_json").json()
    assert jobs.result(job_id, "verbose_json").json() == expected
    positions.update(_kept(server))
    assert set(positions) == set(range(len(expected["segments"])))
    assert max(positions.values()) == 1, "a piece that was kept was transcribed again"


def test_two_servers_on_one_folder_do_each_piece_once(
    start_server: StartServer,
    tmp_path: Path,
    wav: Callable[..., bytes],
    talk: Callable[..., np.ndarray],
) -> None:
    """Replicas on a shared volume; one is killed and the other takes its job over."""
    servers = [start_server(f"--jobs_dir={tmp_path}", *FLAGS) for _ in range(2)]
    first, second = map(Jobs, servers)
    job_ids = [first.made(wav(talk(30.0, seed=seed))) for seed in range(3)]
    until(lambda: first.job(job_ids[0]), lambda job: len(job["segments"]) > 0)
    _kill(servers[0])
    for job_id in job_ids:
        second.done(job_id)
    pieces: Counter[tuple[str, int]] = Counter()
    for server in servers:
        for line in server.lines:
            if line["message"] == "a piece was transcribed":
                pieces[line["job"], line["position"]] += 1
    assert max(pieces.values()) == 1
    assert {job for job, _ in pieces} == set(job_ids)
