"""A real server in a process of its own, and recordings to send to it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

PREDICTOR = Path(__file__).parents[2] / "predictor"
CHECKPOINT = PREDICTOR / "checkpoints" / "tiny"
RECORDINGS = PREDICTOR / "recordings"
START_TIMEOUT_S = 300  # on a busy machine


@dataclass
class Server:
    """A running server; `lines` are its log records so far."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    new_line: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""
    grpc: str = ""
    reader: threading.Thread | None = None

    def end(self) -> int:
        """Ask it to stop and wait; the exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=600)
        if self.reader is not None:
            self.reader.join(timeout=60)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def wait_for_log(self, request_id: str) -> list[dict[str, Any]]:
        """The lines of one request, once there is one."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [line for line in self.lines if line.get("request_id") == request_id]
            return bool(found)

        with self.new_line:
            assert self.new_line.wait_for(look, timeout=30), f"no line about {request_id}"
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 when it is not there yet."""
        from prometheus_client.parser import text_string_to_metric_families

        text = httpx.get(self.url + "/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0


StartServer = Callable[..., Server]


def start(*flags: str, until: str = "ready", before: Callable[[], None] | None = None) -> Server:
    """A server of the embedded checkpoint, once it has said `until`; whoever asks ends it.
    `before` runs in the new process."""
    command = [sys.executable, "-m", "predictor", f"--model_dir={CHECKPOINT}", "--device=cpu"]
    command += ["--http_port=0", "--grpc_port=0", "--host=127.0.0.1"]
    process = subprocess.Popen(
        [*command, *flags],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=PREDICTOR.parent,
        preexec_fn=before,
    )
    server = Server(process)
    ready, has_ended = threading.Event(), threading.Event()
    other: list[str] = []

    def read() -> None:
        assert process.stderr is not None
        for text in process.stderr:
            try:
                line = json.loads(text)
            except ValueError:
                other.append(text)
                continue
            with server.new_line:
                server.lines.append(line)
                server.new_line.notify_all()
            if line["message"] == "listening":
                server.url = f"http://127.0.0.1:{line['http_port']}"
                server.grpc = f"127.0.0.1:{line['grpc_port']}"
            if line["message"] == until:
                ready.set()
        has_ended.set()
        ready.set()

    server.reader = threading.Thread(target=read, daemon=True)
    server.reader.start()
    if not ready.wait(START_TIMEOUT_S) or has_ended.is_set():
        process.kill()
        server.end()
        raise RuntimeError("".join(other) + json.dumps(server.lines, indent=1))
    return server


@pytest.fixture(scope="module")
def start_server() -> Iterator[StartServer]:
    """Starts servers with more flags, and ends them with the module: each holds half a gigabyte."""
    started: list[Server] = []

    def start_one(
        *flags: str, until: str = "ready", before: Callable[[], None] | None = None
    ) -> Server:
        started.append(start(*flags, until=until, before=before))
        return started[-1]

    yield start_one
    for server in started:
        server.end()


_DEFAULT = pytest.StashKey[Server]()


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    """The server that most tests share, those of other folders too: default settings."""
    if _DEFAULT not in pytestconfig.stash:
        pytestconfig.stash[_DEFAULT] = start()
        pytestconfig.add_cleanup(pytestconfig.stash[_DEFAULT].end)
    return pytestconfig.stash[_DEFAULT]


def _wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _talk(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Somebody who does not pause, from another place for another seed."""
    spoken, _ = soundfile.read(RECORDINGS / "demo-en-3.flac", dtype="float32")
    spoken = np.roll(spoken[2_000:28_000], seed * 1_000)
    times = np.arange(round(seconds * rate)) * 16_000 / rate
    return np.interp(times % len(spoken), np.arange(len(spoken)), spoken).astype(np.float32)


@pytest.fixture(scope="session")
def wav() -> Callable[..., bytes]:
    """A WAV file of samples."""
    return _wav


@pytest.fixture(scope="session")
def talk() -> Callable[..., np.ndarray]:
    """Seconds of speech."""
    return _talk


@pytest.fixture(scope="session")
def recordings() -> list[bytes]:
    """A few short recordings, encoded, all different."""
    files = sorted(RECORDINGS.glob("*.flac"))[:3]
    clips = [_wav(_talk(seconds, seed=seconds)) for seconds in (1, 2, 3)]
    return [file.read_bytes() for file in files] or clips


@pytest.fixture(scope="session")
def speech(recordings: list[bytes]) -> bytes:
    """The first of them."""
    return recordings[0]


@pytest.fixture(scope="session")
def encodings(speech: bytes) -> dict[str, bytes]:
    """A short recording in several formats."""
    samples, rate = soundfile.read(io.BytesIO(speech), dtype="float32")
    samples = samples[: rate // 2]
    made = {}
    for name, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=name, subtype=subtype)
        made[name] = buffer.getvalue()
    return made


@pytest.fixture(scope="session")
def said(server: Server, recordings: list[bytes]) -> list[dict[str, Any]]:
    """What the plain route answers for `recordings`; every other protocol must say the same."""
    answers = []
    for data in recordings:
        response = httpx.post(server.url + "/api/v1/recognize", files={"audio": data}, timeout=60)
        response.raise_for_status()
        answers.append(response.json())
    return answers


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of `server`."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
