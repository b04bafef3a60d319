"""The decoder process: takes one recording at a time over a socket, answers with mono samples.

A job is one line of JSON with two open files: the bytes to read, and an empty file for the samples
(float32, at the recording's own rate). Neither torch nor anything of the server is imported, so
that a worker starts in a few hundred milliseconds and can be killed at no loss.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

from predictor.audio.codecs import decode_file
from predictor.audio.limits import AudioLimits
from predictor.audio.mono import MonoWriter
from predictor.audio.sniff import Container
from predictor.errors import AudioError, AudioTooLong, InvalidInput

MAX_MESSAGE_BYTES: Final = 65_536
READY: Final = b"ready\n"
_MAX_ADDRESS_SPACE: Final = 3 << 30  # a header that asks for more memory fails here, not the node
_LAST_RESORT_S: Final = (
    5.0  # after the limit; only counts when the server is no longer there to kill
)


@dataclass(frozen=True, slots=True)
class Job:
    """One recording to decode; its bytes and its result travel as open files."""

    container: Container
    limits: AudioLimits
    channel: int | None
    field: str

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def from_json(line: bytes) -> Job:
        values = json.loads(line)
        return Job(**{**values, "limits": AudioLimits(**values["limits"])})


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a job: the rate of the samples, or an error."""

    sample_rate_hz: int = 0
    num_samples: int = 0
    error: str | None = None  # name of the class in predictor.errors
    message: str = ""
    value: Any = None
    limit: Any = None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def from_json(line: bytes) -> Reply:
        return Reply(**json.loads(line))

    def raise_error(self, field: str) -> None:
        """Raise the error this reply carries, if it carries one."""
        if self.error is None:
            return
        kinds = {kind.__name__: kind for kind in (AudioError, AudioTooLong, InvalidInput)}
        raise kinds[self.error](self.message, field=field, value=self.value, limit=self.limit)


def run_job(job: Job, in_fd: int, out_fd: int) -> Reply:
    """Decode `in_fd` into `out_fd`."""
    with (
        open(in_fd, "rb", buffering=0, closefd=False) as source,
        open(out_fd, "wb", closefd=False) as out,
    ):
        writer = MonoWriter(out, job.limits, job.channel, job.field)
        try:
            decode_file(source, job.container, writer, job.field)
        except InvalidInput as error:
            return Reply(
                error=type(error).__name__,
                message=error.bare_message,
                value=error.value,
                limit=error.limit,
            )
    return Reply(sample_rate_hz=writer.sample_rate_hz, num_samples=writer.num_samples)


def serve(channel: socket.socket) -> None:
    """Answer jobs until the server's end of the socket is closed."""
    channel.sendall(READY)
    while True:
        line, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 2)
        if not line:
            return
        job = Job.from_json(line)
        # If the server dies while a codec hangs, nobody else would end this process.
        signal.setitimer(signal.ITIMER_REAL, job.limits.decode_timeout_s + _LAST_RESORT_S)
        try:
            reply = run_job(job, *fds)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for fd in fds:
                os.close(fd)
        channel.sendall(reply.to_json())


def main() -> None:
    """`python -m predictor.audio.worker FD`, started by the pool."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            serve(channel)
        except (BrokenPipeError, ConnectionResetError):
            sys.exit(0)  # the server has gone


if __name__ == "__main__":
    main()
