"""The server's end of one decoder process.

Bytes and samples pass through anonymous files in memory (memfd): nothing lies in /dev/shm, which a
container limits to 64 MB, and nothing is left behind however a process ends. Linux only.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from predictor.audio.worker import MAX_MESSAGE_BYTES, READY, Job, Reply

_START_TIMEOUT_S: Final = 60.0
_PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


class WorkerDiedError(Exception):
    """The process ended before it answered; `exit_code` is negative for a signal."""

    def __init__(self, exit_code: int, *, was_ready: bool) -> None:
        super().__init__(f"decoder process ended with {exit_code}")
        self.exit_code = exit_code
        self.was_ready = was_ready

    @property
    def is_from_outside(self) -> bool:
        """Killed by someone (out of memory), or never started: not the recording's fault."""
        return self.exit_code == -signal.SIGKILL or not self.was_ready


class Worker:
    """One decoder process and the socket to it. Used by one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own module, no input in it
                [sys.executable, "-m", "predictor.audio.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C in a terminal is the server's to handle
            )
        self._socket = ours
        self._is_ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Returns when the process can take a job. Raises WorkerDiedError."""
        if self._is_ready:
            return
        self._socket.settimeout(_START_TIMEOUT_S)
        try:
            line = self._receive_line()
        except TimeoutError:
            self._process.kill()
            line = b""
        if line != READY:
            raise self._death()
        self._is_ready = True

    def call(self, job: Job, data: bytes | memoryview) -> tuple[NDArray[np.float32], int]:
        """Samples [n] at the recording's rate, and that rate.

        Raises what the job's reply carries, WorkerDiedError, or TimeoutError past the time limit;
        after the last two this worker is of no use any more.
        """
        self.wait_ready()
        with _memory_file() as source, _memory_file() as result:
            _fill(source, data)
            self._socket.settimeout(job.limits.decode_timeout_s)
            try:
                fds = [source.fileno(), result.fileno()]
                socket.send_fds(self._socket, [job.to_json()], fds)
                line = self._receive_line()
            except (BrokenPipeError, ConnectionResetError):
                line = b""
            if not line:
                raise self._death()
            reply = Reply.from_json(line)
            reply.raise_error(job.field)
            return _mapped(result.fileno(), reply.num_samples), reply.sample_rate_hz

    def _receive_line(self) -> bytes:
        """One message, or nothing when the process has gone."""
        line = b""
        while not line.endswith(b"\n"):
            part = self._socket.recv(MAX_MESSAGE_BYTES)
            if not part:
                return b""
            line += part
        return line

    def _death(self) -> WorkerDiedError:
        try:
            exit_code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            exit_code = self._process.wait()
        return WorkerDiedError(exit_code, was_ready=self._is_ready)

    def kill(self) -> None:
        """End the process at once, whatever it does. A call under way raises WorkerDiedError."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill the process and free the socket; no call may be under way."""
        self.kill()
        self._socket.close()


def _environment() -> dict[str, str]:
    """Only what Python needs to start: a process that reads strangers' bytes holds no secrets."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    root = str(Path(__file__).resolve().parents[2])
    return {
        **passed_on,
        "PYTHONPATH": root,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _memory_file() -> BinaryIO:
    """An anonymous file in memory that is gone with its last descriptor."""
    return open(os.memfd_create("audio"), "r+b", buffering=0)


def _fill(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data` and go back to the start: the descriptor's position is shared."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file.fileno(), rest) :]
    file.seek(0)


def _mapped(fd: int, num_samples: int) -> NDArray[np.float32]:
    """The samples in `fd`, not copied; the mapping lives as long as the array."""
    if num_samples == 0:
        return np.empty(0, dtype=np.float32)
    return np.frombuffer(mmap.mmap(fd, num_samples * 4, prot=mmap.PROT_READ), dtype=np.float32)
