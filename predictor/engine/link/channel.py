"""Frames over a Unix socket, with the samples of requests beside them.

Samples pass through anonymous files in memory (memfd), as the decoders' do: nothing lies in
/dev/shm, which a container limits to 64 MB, and nothing is left behind however a process ends. A
few of them travel in the frame, which costs less than a file.
"""

from __future__ import annotations

import os
import socket
import threading
from array import array
from collections.abc import Container
from contextlib import suppress
from typing import Final

import numpy as np

from predictor.engine.link.wire import Frames, Message, Submit, encode
from predictor.shared_samples import file_of, has_file
from predictor.types import AnySamples, EngineRequest, ExtendRequest

_MAX_READ_BYTES: Final = 1 << 18
_MAX_FDS: Final = 64  # taken from the socket at once
_MAX_BACKLOG_BYTES: Final = 1 << 26  # for a reader that stands still
_MAX_SPARE_BYTES: Final = 1 << 20  # 30 s of int16
# A Unix socket takes what is not longer at once or not at all; Linux cuts it into pieces of 36 kB.
_MAX_WHOLE_BYTES: Final = 1 << 15


class Inbox:
    """Reads frames, and files that come with them; one thread's."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = memoryview(bytearray(_MAX_READ_BYTES))
        self._frames = Frames()
        self._files: list[int] = []  # one for each Submit to come, in order

    def read(self, *, waits: bool = True) -> list[Message] | None:
        """What has arrived, waiting for something if need be; None when the other has gone."""
        how = 0 if waits else socket.MSG_DONTWAIT
        try:
            size, beside, flags, _ = self._channel.recvmsg_into(
                [self._buffer], socket.CMSG_SPACE(_MAX_FDS * 4), how
            )
        except BlockingIOError:
            return []
        except ConnectionResetError:
            return None
        self._files += _files_in(beside)
        if flags & socket.MSG_CTRUNC:  # later samples would go to the wrong requests
            raise RuntimeError("a request's samples were lost: too many open files")
        return self._frames.feed(self._buffer[:size]) if size else None

    def filled(self, message: Submit) -> EngineRequest | ExtendRequest:
        """The request of the next Submit with its samples.

        Copied, because a mapping would keep the file open.
        """
        if message.is_inline:
            return message.request
        fd = self._files.pop(0)
        samples = message.request.samples
        try:
            num_bytes = os.preadv(fd, [samples.data.cast("B")], 0)
        finally:
            os.close(fd)
        if num_bytes != samples.nbytes:
            raise RuntimeError(f"{num_bytes} bytes of samples came for {len(samples)} samples")
        return message.request

    def close(self) -> None:
        """Files that came and were not taken."""
        while self._files:
            os.close(self._files.pop())


def _files_in(beside: list[tuple[int, int, bytes]]) -> list[int]:
    """Descriptors among what came beside bytes."""
    files = array("i")
    for level, kind, data in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    return files.tolist()


class SpareFile:
    """A file in memory for the samples of requests that come one after another.

    A new file gets its memory page by page, which takes longer than to fill it.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._number = -1  # of the request whose samples it holds

    def send(self, channel: socket.socket, message: Submit, in_flight: Container[int]) -> bool:
        """Send a request whose samples it can take, without waiting for its reader; False =
        nothing was sent. `in_flight`: numbers of requests that may not have been read."""
        samples = message.request.samples
        if message.is_inline or samples.nbytes > _MAX_SPARE_BYTES or has_file(samples):
            return False
        if self._number in in_flight:
            return False
        frame = encode(message)
        if len(frame) > _MAX_WHOLE_BYTES:
            return False
        data = np.ascontiguousarray(samples).data.cast("B")
        try:
            if self._fd < 0:
                self._fd = os.memfd_create("spare")
            self._number = message.number
            if os.pwrite(self._fd, data, 0) < len(data):
                return False
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [self._fd]))
            return channel.sendmsg([frame], [rights], socket.MSG_DONTWAIT) > 0
        except OSError:  # no memory, no room, no reader: whoever may wait finds out
            return False

    def close(self) -> None:
        """Nothing is sent any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def send_request(channel: socket.socket, message: Submit) -> None:
    """A request with its samples. Raises OSError, for want of a reader or of memory."""
    frame = encode(message)
    if message.is_inline:
        channel.sendall(frame)
        return
    fd = file_of(message.request.samples)
    if fd is None:
        fd = _memory_file(message.request.samples)
    try:
        num_sent = socket.send_fds(channel, [frame], [fd])
    finally:
        os.close(fd)
    if num_sent < len(frame):
        channel.sendall(frame[num_sent:])


def _memory_file(samples: AnySamples) -> int:
    """A new file that holds them."""
    fd = os.memfd_create("samples")
    try:
        rest = np.ascontiguousarray(samples).data.cast("B")
        while rest:
            rest = rest[os.write(fd, rest) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


class Outbox:
    """Writes frames and never waits: a reader that stands still must not hold up the writer.

    Used by any thread. What the socket does not take is kept for `flush`.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._backlog = bytearray()

    def post(self, *messages: Message) -> None:
        """Send now. Whoever calls need not care whether anybody reads."""
        self.post_frames(b"".join(map(encode, messages)))

    def post_frames(self, frames: bytes) -> None:
        """The same for what is encoded already."""
        with self._lock:
            self._backlog += frames
            self._send()

    def flush(self) -> None:
        """Send what is kept, as far as the socket takes it."""
        with self._lock:
            self._send()

    @property
    def is_behind(self) -> bool:
        """Whether something waits for `flush`."""
        return bool(self._backlog)

    def _send(self) -> None:
        try:
            while self._backlog:
                num_sent = self._channel.send(self._backlog, socket.MSG_DONTWAIT)
                del self._backlog[:num_sent]
        except BlockingIOError:
            if len(self._backlog) > _MAX_BACKLOG_BYTES:
                self._backlog.clear()
                with suppress(OSError):
                    self._channel.shutdown(socket.SHUT_RDWR)  # its reader is as good as gone
        except OSError:  # gone, which whoever reads from it sees too
            self._backlog.clear()
