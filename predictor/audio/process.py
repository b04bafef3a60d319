"""The server's end of one decoder process.

Bytes and samples pass through anonymous files in memory (memfd): nothing lies in /dev/shm, which a
container limits to 64 MB, and nothing is left behind however a process ends. A packet socket keeps
each message and its file together. Linux only.
"""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace
from typing import BinaryIO, Final

from predictor.audio.file_part import file_part
from predictor.audio.job import Job, Message
from predictor.audio.worker import MAX_MESSAGE_BYTES, READY, STOP
from predictor.processes import bare_environment, connected_child
from predictor.shared_samples import mapped
from predictor.types import AnySamples

# To import and say so: seconds, but more than a minute on a crowded node. Too short, it ends the
# server while its startup probe still waits, and the next start is as slow.
_START_TIMEOUT_S: Final = 600.0
_EXIT_S: Final = 1.0  # for a process that closed its end


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
        known = bare_environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        self._process, self._socket = connected_child(
            "predictor.audio.worker", known, kind=socket.SOCK_SEQPACKET
        )
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
            line = self._receive()[0]
        except TimeoutError:
            self._process.kill()
            line = b""
        if line != READY:
            raise self._death()
        self._is_ready = True

    def begin(self, job: Job, data: bytes | memoryview) -> None:
        """Hand it a recording; `receive` then gives its messages. Raises WorkerDiedError."""
        self.wait_ready()
        on_disk = file_part(data)
        if on_disk is not None:
            file, begin = on_disk
            self._send(replace(job, begin=begin, num_bytes=len(data)), file)
            return
        with _memory_file() as source:
            _fill(source, data)
            self._send(job, source)

    def _send(self, job: Job, file: BinaryIO) -> None:
        try:
            socket.send_fds(self._socket, [job.to_json()], [file.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def receive(self, timeout_s: float) -> tuple[Message, AnySamples | None]:
        """The next message, and the samples of a piece.

        Raises WorkerDiedError or TimeoutError; then this worker is of no use any more.
        """
        self._socket.settimeout(timeout_s)
        line, fd = self._receive()
        if not line:
            raise self._death()
        message = Message.from_json(line)
        if fd is None:
            return message, None
        return message, mapped(fd, message.num_samples, message.sample_type)

    def answer(self, granted_s: float | None) -> None:
        """The answer to a message that asks for more: a new total, None to stop."""
        try:
            self._socket.send(STOP if granted_s is None else repr(granted_s).encode())
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _receive(self) -> tuple[bytes, int | None]:
        """One message and its file; nothing when the process has gone."""
        try:
            line, fds, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1)
        except ConnectionResetError:
            return b"", None
        return line, fds[0] if fds else None

    def _death(self) -> WorkerDiedError:
        return WorkerDiedError(self._process.exit_code(_EXIT_S), was_ready=self._is_ready)

    def kill(self) -> None:
        """End the process at once, whatever it does. A call under way raises WorkerDiedError."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and free the socket; no call may be under way."""
        self.kill()
        self._socket.close()


def _memory_file() -> BinaryIO:
    """An anonymous file in memory that is gone with its last descriptor."""
    return open(os.memfd_create("audio"), "r+b", buffering=0)


def _fill(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data` and go back to the start: the descriptor's position is shared."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file.fileno(), rest) :]
    file.seek(0)
