"""The server under the benchmark of the start: one process, its log and its first requests."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import numpy as np

from tests.bench.environment import ROOT

TOKENS_PER_AUDIO_S = 3.5  # as speech has
POLL_S = 0.02


class StartFailedError(Exception):
    """The server ended, or was not ready in time; the message has its last lines."""


class Server:
    """One `python -m predictor`, its log lines and when they came, in seconds since its start."""

    def __init__(self, folder: Path, kernels: Path, arguments: Sequence[str]) -> None:
        self.port = _free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "predictor", "--model_dir", str(folder)]
        command += ["--host", "127.0.0.1", "--http_port", str(self.port), "--enable_grpc", "false"]
        command += ["--max_tokens_per_audio_s", str(TOKENS_PER_AUDIO_S), "--log_format", "json"]
        command += ["--check_ready_clip", "false"]  # weights from nowhere hear nothing
        environment = {**os.environ, "TRITON_CACHE_DIR": str(kernels)}
        self.lines: list[str] = []
        self.began_s = time.time()
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, stderr: IO[str]) -> None:
        with stderr:
            self.lines.extend(iter(stderr.readline, ""))

    @property
    def age_s(self) -> float:
        return time.time() - self.began_s

    def stages(self) -> dict[str, float]:
        """Message of a log line, up to the first path in it -> seconds."""
        found: dict[str, float] = {}
        for record in self._records():
            message = record["message"].partition(" /")[0]
            if message != "request":  # our own
                found.setdefault(message, datetime.fromisoformat(record["time"]).timestamp())
        return {message: at - self.began_s for message, at in found.items()}

    def fields(self, message: str) -> dict[str, Any]:
        """What the first line of this message says beside it; nothing where there is none."""
        known = {"time", "level", "logger", "message"}
        for record in self._records():
            if record["message"] == message:
                return {name: value for name, value in record.items() if name not in known}
        return {}

    def _records(self) -> Iterator[dict[str, Any]]:
        for line in list(self.lines):
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def wait_listening(self, deadline_s: float) -> float:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self.age_s
            self._check(deadline_s)

    def wait_ready(self, deadline_s: float) -> float:
        while True:
            try:
                with urllib.request.urlopen(f"{self.base_url}/v2/models/qwen3-asr/ready"):
                    return self.age_s
            except (urllib.error.URLError, ConnectionError):
                self._check(deadline_s)

    def _check(self, deadline_s: float) -> None:
        if self.process.poll() is not None or self.age_s > deadline_s:
            raise StartFailedError("".join(self.lines[-5:]) or "not ready in time")
        time.sleep(POLL_S)

    def transcribe(self, wav: bytes, timeout_s: float) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.base_url}/v1/models/qwen3-asr:predict", wav, {"Content-Type": "audio/wav"}
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            [prediction] = json.load(answer)["predictions"]
        assert isinstance(prediction, dict)
        return prediction

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()


@contextmanager
def served(folder: Path, kernels: Path, arguments: Sequence[str]) -> Iterator[Server]:
    server = Server(folder, kernels, arguments)
    try:
        yield server
    finally:
        server.stop()


def noise_wav(duration_s: float) -> bytes:
    """A 16 kHz mono WAV of noise."""
    noise = np.random.default_rng(0).standard_normal(int(duration_s * 16_000))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes((2000 * noise).clip(-32768, 32767).astype("<i2").tobytes())
    return file.getvalue()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
