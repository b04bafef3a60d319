"""The decoder process: takes one recording at a time over a socket, answers with its pieces.

A job is one JSON message with an open file, the bytes to read. Pieces go back as they are found,
each as one message with an anonymous file of its samples (16 kHz; int16 where that is exact, else
float32). The process decodes no
more seconds than it was granted and then asks for more, so that nobody's file makes it or the
server grow. Neither torch nor anything of the server is imported: a process starts in a few hundred
milliseconds and can be killed at no loss.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, Final, NoReturn, cast

import numpy as np

from predictor.audio.codecs import BLOCK_S, Block, decode_file, undecodable
from predictor.audio.cut import Cut, Cutter
from predictor.audio.file_part import FilePart, forget
from predictor.audio.filters import limit_peak, normalize_loudness, without_leaks
from predictor.audio.job import Job, Message
from predictor.audio.memory_guard import MemoryGuard, held_bytes
from predictor.audio.pcm import PcmLayout, decode_pcm, whole_parts
from predictor.audio.track import Track
from predictor.audio.wav import plain_wav
from predictor.errors import InvalidInput
from predictor.processes.heap import keep_freed_memory
from predictor.shared_samples import as_pcm16
from predictor.types import SAMPLE_RATE_HZ, AnySamples, Samples

MAX_MESSAGE_BYTES: Final = 65_536
READY: Final = b"ready"
STOP: Final = b"stop"
_MAX_ADDRESS_SPACE: Final = 3 << 30  # the last resort, where nobody looks in time
# After the limit; only counts when the server is no longer there to kill.
_LAST_RESORT_S: Final = 5.0
_SHORT_CPU_S: Final = 2.0  # that a job takes among the short ones; four minutes of MP3 take half
# Fronts and engines go first: who decodes more than there are processors for must not delay them.
_NICENESS: Final = 5


class _StoppedError(Exception):
    """The server has no use for the rest."""


class _Run:
    """One job under way."""

    def __init__(self, job: Job, channel: socket.socket, guard: MemoryGuard) -> None:
        self._job = job
        self._channel = channel
        self._guard = guard
        self._granted_s = job.granted_s
        self._track = Track(job.limits, job.options, job.field)
        self._cutters: list[Cutter] = []
        self._waited_s = 0.0
        self._began_s = time.monotonic()
        self._began_cpu_s = time.process_time()

    def run(self, fd: int) -> Message:
        """Decode the file `fd`; returns the last message. Raises InvalidInput, _StoppedError."""
        for block in _blocks(self._job, fd, self._tick):
            step = max(1, int(BLOCK_S * block.sample_rate_hz))
            for start in range(0, len(block.values), step):
                at_s = block.at_s if start == 0 else None
                part = block.values[start : start + step]
                for samples in self._track.write(part, block.sample_rate_hz, at_s):
                    self._take(samples)
        for samples in self._track.finish():
            self._take(samples)
        for index, cutter in enumerate(self._cutters):
            self._send(index, cutter.finish())
        return Message(
            "end",
            decoded_s=self._decoded_s,
            dropped_s=self._dropped_s,
            duration_s=self._track.num_given / SAMPLE_RATE_HZ,
            speech_probability=max(c.speech_probability for c in self._cutters),
            busy_s=time.monotonic() - self._began_s - self._waited_s,
            notes=tuple(self._track.notes),
        )

    @property
    def _decoded_s(self) -> float:
        return self._track.num_given * len(self._cutters) / SAMPLE_RATE_HZ

    @property
    def _dropped_s(self) -> float:
        return sum(cutter.num_dropped for cutter in self._cutters) / SAMPLE_RATE_HZ

    def _take(self, samples: Samples) -> None:
        """Samples [channels, n] to the cutters, and their pieces to the server."""
        if not self._cutters:
            self._cutters = [Cutter(self._job.cuts) for _ in range(len(samples))]
        waiting = samples.size + sum(cutter.num_waiting for cutter in self._cutters)
        self._guard.allow_sound(waiting)
        samples = without_leaks(samples)
        for index, (cutter, channel) in enumerate(zip(self._cutters, samples, strict=True)):
            self._send(index, cutter.feed(channel))
        if self._decoded_s > self._granted_s:
            self._ask()

    def _tick(self) -> None:
        """A few kB may hold thousands of packets that are no sound, or of files in a chain."""
        if self._job.is_long or time.process_time() - self._began_cpu_s < _SHORT_CPU_S:
            return
        self._ask()

    def _ask(self) -> None:
        """Wait until more seconds are granted. Raises _StoppedError."""
        began_s = time.monotonic()
        question = Message(
            "more",
            decoded_s=max(self._decoded_s, self._granted_s),
            dropped_s=self._dropped_s,
            waiting_s=sum(cutter.num_waiting for cutter in self._cutters) / SAMPLE_RATE_HZ,
            num_channels=len(self._cutters),
        )
        signal.setitimer(signal.ITIMER_REAL, 0)  # waiting is no hanging
        self._channel.send(question.to_json())
        answer = self._channel.recv(MAX_MESSAGE_BYTES)
        if answer in (b"", STOP):
            raise _StoppedError
        self._granted_s = float(answer)
        _set_alarm(self._job)
        self._waited_s += time.monotonic() - began_s

    def _send(self, index: int, pieces: list[Cut]) -> None:
        is_separate = self._job.options.channel == "separate"
        for piece in pieces:
            samples = limit_peak(piece.samples)
            if self._job.options.loudness_lufs is not None:
                samples = normalize_loudness(samples, self._job.options.loudness_lufs)
            short = as_pcm16(samples)
            sent = samples if short is None else short
            channel = index if is_separate else None
            message = Message(
                "piece",
                len(sent),
                sent.dtype.name,
                piece.start,
                channel,
                piece.overlap,
                piece.continues,
            )
            fd = os.memfd_create("samples")
            try:
                _write(fd, sent)
                socket.send_fds(self._channel, [message.to_json()], [fd])
            finally:
                os.close(fd)


def _write(fd: int, samples: AnySamples) -> None:
    rest = memoryview(np.ascontiguousarray(samples).data).cast("B")
    while rest:
        rest = rest[os.write(fd, rest) :]


def _blocks(job: Job, fd: int, tick: Callable[[], None]) -> Iterator[Block]:
    with _opened(job, fd) as file:
        plain = _plain(job, fd)
        if plain is not None:
            for layout, data in plain:
                for part in whole_parts(data, layout):
                    for values in decode_pcm(part, layout):
                        yield Block(values, layout.sample_rate_hz)
                    forget(part)
        elif job.container is not None:
            yield from decode_file(file, job.container, job.options.track, job.field, tick)


def _opened(job: Job, fd: int) -> BinaryIO:
    if job.num_bytes is None:
        return open(fd, "rb", buffering=0, closefd=False)
    return cast(BinaryIO, FilePart(fd, job.begin, job.num_bytes))


def _plain(job: Job, fd: int) -> list[tuple[PcmLayout, memoryview]] | None:
    """Samples that need no codec: raw ones, and those of a plain WAV file."""
    size = os.fstat(fd).st_size
    if size == 0 or (job.layout is None and job.container != "wav"):
        return None
    data = memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
    if job.num_bytes is not None:
        data = data[job.begin :][: job.num_bytes]
    return [(job.layout, data)] if job.layout is not None else plain_wav(data)


def run_job(job: Job, fd: int, channel: socket.socket, guard: MemoryGuard) -> Message:
    """Decode `fd`, sending pieces; returns the last message."""
    try:
        return _Run(job, channel, guard).run(fd)
    except _StoppedError:
        return Message("end")
    except InvalidInput as error:
        return _error_message(error)


def _error_message(error: InvalidInput) -> Message:
    return Message(
        "error",
        error=type(error).__name__,
        message=error.bare_message,
        value=error.value,
        limit=error.limit,
    )


def _set_alarm(job: Job) -> None:
    # If the server dies while a codec hangs, nobody else would end this process.
    signal.setitimer(signal.ITIMER_REAL, job.limits.decode_timeout_s + _LAST_RESORT_S)


def serve(channel: socket.socket) -> None:
    """Answer jobs until the server's end of the socket is closed."""
    at_start = held_bytes()
    channel.send(READY)
    while True:
        line, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 1)
        if not line:
            return
        job = Job.from_json(line)
        size = os.fstat(fds[0]).st_size
        # A file that is mapped takes addresses and no memory.
        _limit_memory(_MAX_ADDRESS_SPACE + size)
        _set_alarm(job)
        try:
            with MemoryGuard(at_start, size, partial(_give_up, channel, job)) as guard:
                last = run_job(job, fds[0], channel, guard)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for fd in fds:
                os.close(fd)
        channel.send(last.to_json())


def _give_up(channel: socket.socket, job: Job) -> NoReturn:
    """In the guard's thread: nothing else stops a demuxer. The server starts another process."""
    error = undecodable(job.field, job.container or "wav", "it asks for too much memory")
    channel.send(_error_message(error).to_json())
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")


def _limit_memory(num_bytes: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, most))


def main() -> None:
    """`python -m predictor.audio.worker FD`, started by the pool."""
    _limit_memory(_MAX_ADDRESS_SPACE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    keep_freed_memory()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            serve(channel)
        except (BrokenPipeError, ConnectionResetError):
            sys.exit(0)  # the server has gone


if __name__ == "__main__":
    main()
