"""Real servers with a folder for jobs, and recordings of many pieces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
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
KEYS = ("key-one", "key-two", "key-three")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MAX_JOBS = 20
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


class Site:
    """A web server of this machine: answers by path, and keeps what it is sent."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.heard: list[tuple[dict[str, str], bytes]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                status, headers, body = site.next(path)
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                site.heard.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """The first of the answers at `path`; the last one stays."""
        answers = self.answers.get(path, [(404, {}, b"")])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Where recordings are fetched and ends of jobs are told."""
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="session")
def jobs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="session")
def jobs_server(jobs_folder: Path, site: Site) -> Iterator[Server]:
    """One for all: with keys, and with a site to fetch from and to tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWEN3_ASR_API_KEYS", ",".join(KEYS))
        patch.setenv("QWEN3_ASR_JOB_WEBHOOK_SECRET", SECRET)
        server = start(
            f"--jobs_dir={jobs_folder}",
            f"--max_jobs={MAX_JOBS}",
            f"--job_url_prefixes={site.url}/in/",
            f"--job_webhook_prefixes={site.url}/hook",
            "--job_private_addresses=true",
            "--segment_s=3",
            "--log_level=debug",
        )
    yield server
    server.end()


@pytest.fixture
def jobs(jobs_server: Server) -> Iterator[Jobs]:
    with Jobs(jobs_server, KEYS[0]) as jobs:
        yield jobs
