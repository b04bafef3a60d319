"""How long a start takes: from the process to the first transcript over HTTP, and where it goes.

    python -m tests.bench.start --shapes 1.7B --output tests/bench/results/start-GPU.json
    python -m tests.bench.start --shapes tiny --repeats 1                    (a smoke test)

Starts `python -m predictor` on a checkpoint of random weights (`tests.bench.checkpoint`), waits for
its HTTP port and its readiness, and posts a WAV of ten seconds. The stages in between are the times
of the server's own log lines. Three kinds of start:

    cold     no compiled kernels, nothing of the disk in memory (where caches may be dropped;
             else only the checkpoint's files)
    compile  no compiled kernels, files in memory
    warm     kernels compiled by an earlier start, files in memory

This process does not touch the device, so that every start makes its own context.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
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

KINDS = ("cold", "compile", "warm")
GOALS = {"1.7B start, cold": (8, 3)}  # reach, limit: seconds to the first transcript
CLIP_S = 10
TOKENS_PER_AUDIO_S = 3.5  # as speech has
POLL_S = 0.02
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
MILESTONES = ("listening_s", "ready_s", "first_transcript_s")


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
        self.lines.extend(iter(stderr.readline, ""))

    @property
    def age_s(self) -> float:
        return time.time() - self.began_s

    def stages(self) -> dict[str, float]:
        """Message of a log line, up to the first path in it -> seconds."""
        found: dict[str, float] = {}
        for line in list(self.lines):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            message = record["message"].partition(" /")[0]
            if message == "request":  # our own
                continue
            found.setdefault(message, datetime.fromisoformat(record["time"]).timestamp())
        return {message: at - self.began_s for message, at in found.items()}

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


def measure(
    folder: Path, kernels: Path, limit_s: float, arguments: Sequence[str] = ()
) -> dict[str, Any]:
    """One start. Raises StartFailedError."""
    wav = noise_wav(CLIP_S)
    in_memory = cached_share(folder)
    with served(folder, kernels, arguments) as server:
        listening_s = server.wait_listening(limit_s)
        ready_s = server.wait_ready(limit_s)
        server.transcribe(wav, limit_s)
        first_s = server.age_s
        began_s = time.perf_counter()
        second = server.transcribe(wav, limit_s)
        return {
            "listening_s": listening_s,
            "ready_s": ready_s,
            "first_transcript_s": first_s,
            "second_transcript_took_s": time.perf_counter() - began_s,
            "finish_reason": second["finish_reason"],
            "checkpoint_in_memory": in_memory,
            "stages_s": server.stages(),
        }


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


def forget(folder: Path) -> str:
    """Take files out of memory; says which."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError:
        for file in folder.iterdir():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return "the checkpoint's files"
    return "all files"


def remember(folder: Path) -> None:
    """Read the checkpoint once."""
    for file in folder.iterdir():
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


def cached_share(folder: Path, samples: int = 200) -> float | None:
    """The share of the weights' bytes that is in memory, from samples; None where unknown."""
    found = tried = 0
    buffer = bytearray(1)
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            size = file.stat().st_size
            for offset in range(0, size, max(1, size // samples)):
                tried += 1
                try:
                    found += os.preadv(opened.fileno(), [buffer], offset, os.RWF_NOWAIT)
                except BlockingIOError:
                    continue
                except OSError:
                    return None
    return found / tried if tried else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Bench:
    """One run: its rows and the file they go to."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.deadline = time.monotonic() + arguments.budget_s
        self.compiled_for = ""  # the shape whose kernels are in the cache
        self.result: dict[str, Any] = {
            "environment": {},
            "method": "python -m predictor on random weights; seconds from the start of the "
            f"process; a WAV of {CLIP_S} s posted once ready, its answer capped at "
            f"{TOKENS_PER_AUDIO_S} tokens a second; median of repeats",
            "arguments": arguments.server,
            "goals": GOALS,
            "rows": {},
        }

    def run(self, work: Path) -> None:
        for shape in self.arguments.shapes.split(","):
            folder = (self.arguments.checkpoints or work) / shape
            if not (folder / "config.json").is_file():
                command = [sys.executable, "-m", "tests.bench.checkpoint", str(folder)]
                subprocess.run([*command, "--shape", shape], cwd=ROOT, check=True)
            for kind in self.arguments.kinds.split(","):
                self._row(f"{shape} start, {kind}", kind, folder, work)
        self.save()

    def _row(self, name: str, kind: str, folder: Path, work: Path) -> None:
        runs: list[dict[str, Any]] = []
        row: dict[str, Any] = {}
        kernels = work / "kernels"
        for _ in range(self.arguments.repeats):
            left_s = self.deadline - time.monotonic()
            if left_s < 5 or (runs and left_s < 1.5 * runs[-1]["first_transcript_s"]):
                break
            if kind != "warm":
                shutil.rmtree(kernels, ignore_errors=True)
            if kind == "cold":
                row["dropped"] = forget(folder)
            else:
                remember(folder)
            try:
                if kind == "warm" and self.compiled_for != folder.name:
                    self._measure(folder, kernels, left_s)  # fills the cache
                runs.append(self._measure(folder, kernels, left_s))
            except (StartFailedError, OSError) as error:
                row["error"] = f"{type(error).__name__}: {error}"[-2000:]
                break
        if runs:
            middle = sorted(runs, key=lambda run: run["first_transcript_s"])[len(runs) // 2]
            row |= {"value": statistics.median(r["first_transcript_s"] for r in runs), "unit": "s"}
            row |= {name: statistics.median(r[name] for r in runs) for name in MILESTONES}
            row |= {"stages_s": middle["stages_s"], "runs": runs}
        self.result["rows"][name] = row or {"skipped": "out of time"}
        print(f"{name}: {json.dumps(_rounded(row))[:1500]}", file=sys.stderr, flush=True)
        self.save()

    def _measure(self, folder: Path, kernels: Path, limit_s: float) -> dict[str, Any]:
        run = measure(folder, kernels, limit_s, self.arguments.server)
        self.compiled_for = folder.name
        return run

    def save(self) -> None:
        output: Path | None = self.arguments.output
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(_rounded(self.result), indent=1) + "\n")

    def table(self) -> str:
        lines = [f"{'seconds since the process began':34}  listening   ready  transcript"]
        for name, row in self.result["rows"].items():
            if "value" not in row:
                lines.append(f"{name:34}  {row.get('error', 'skipped')[:80]}")
                continue
            listening, ready, first = (row[milestone] for milestone in MILESTONES)
            lines.append(f"{name:34}  {listening:9.2f} {ready:7.2f} {first:11.2f}")
        return "\n".join(lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def _environment() -> dict[str, Any]:
    """In a process of its own, which may touch the device."""
    script = (
        "import json; from tests.bench.environment import describe; print(json.dumps(describe()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    described = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(described, dict)
    return described


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", default="1.7B", help="comma-separated: 1.7B,0.6B,tiny")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget_s", type=float, default=240.0)
    parser.add_argument("--checkpoints", type=Path, help="keep checkpoints in this folder")
    parser.add_argument("--output", type=Path)
    parser.add_argument("server", nargs="*", help="after `--`: further flags of the server")
    bench = Bench(parser.parse_args())
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as work:
        bench.run(Path(work))
    bench.result["environment"] = _environment()
    bench.save()
    print(bench.table())


if __name__ == "__main__":
    main()
