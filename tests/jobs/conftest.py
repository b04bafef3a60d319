"""Real servers with a folder for jobs, and recordings of many pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import (  # noqa: F401  # the same servers and recordings
    START_TIMEOUT_S,
    Server,
    recordings,
    speech,
    start,
    start_server,
    talk,
    wav,
)

MODEL = "qwen3-asr"
Job = dict[str, Any]


def until(look: Callable[[], Job], wanted: Callable[[Job], bool]) -> Job:
    """The job once it is as wanted; one that ended and is not never will be."""
    ends_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends_s:
        job = look()
        if wanted(job):
            return job
        assert job["status"] not in ("done", "failed") or job.get("webhook") == "pending", job
    raise AssertionError(f"not as wanted in time: {job}")


def nearly(value: Any) -> Any:
    """Equal to what differs in scores by little: they depend on what was computed beside them."""
    if isinstance(value, dict):
        return {name: nearly(item) for name, item in value.items()}
    if isinstance(value, list):
        return [nearly(item) for item in value]
    return pytest.approx(value, abs=0.02) if isinstance(value, float) else value


class Jobs:
    """A client of the routes."""

    def __init__(self, server: Server, key: str = "") -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=server.url, headers=headers, timeout=60)

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def create(self, data: bytes, **fields: str) -> httpx.Response:
        return self.http.post("/v1/jobs", files={"file": data}, data={"model": MODEL, **fields})

    def made(self, data: bytes, **fields: str) -> str:
        answer = self.create(data, **fields)
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def job(self, job_id: str) -> Job:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        answer.raise_for_status()
        job: Job = answer.json()
        return job

    def done(self, job_id: str) -> Job:
        return until(lambda: self.job(job_id), lambda job: job["status"] == "done")

    def ended(self, job_id: str) -> Job:
        return until(lambda: self.job(job_id), lambda job: job["ended_at"] is not None)

    def result(self, job_id: str, chosen: str = "") -> httpx.Response:
        params = {"format": chosen} if chosen else {}
        return self.http.get(f"/v1/jobs/{job_id}/result", params=params)

    def transcription(self, data: bytes, **fields: str) -> httpx.Response:
        body = {"model": MODEL, **fields}
        return self.http.post("/v1/audio/transcriptions", files={"file": data}, data=body)


@pytest.fixture(scope="session")
def jobs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("jobs")
    server = start(f"--jobs_dir={folder}", "--segment_s=3", "--log_level=debug")
    yield server
    server.end()


@pytest.fixture
def jobs(jobs_server: Server) -> Iterator[Jobs]:
    with Jobs(jobs_server) as jobs:
        yield jobs
