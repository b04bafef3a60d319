"""The aligner as a server sees it: samples and words out, times back. No torch here."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO, Final

from predictor.align.wire import (
    AlignerInfo,
    Answer,
    Question,
    Times,
    answer_from_json,
    read_times,
    receive,
    samples_file,
    send,
    words_file,
)
from predictor.errors import InternalError, NotReady, Overloaded
from predictor.types import AnySamples

_ATTEMPTS: Final = 2  # a process that died starts again once


class AlignerClient:
    """Reaches an aligner's process at its address. Its coroutines are for one event loop."""

    def __init__(self, address: Path) -> None:
        self._address = str(address)

    def wait_ready(self) -> AlignerInfo:
        """Wait, however long it loads; what it can do. Raises RuntimeError if it has gone."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            try:
                channel.connect(self._address)
                send(channel, Question())
                line, _ = receive(channel)
            except OSError as error:
                raise RuntimeError(f"the aligner cannot be reached: {error}") from error
        info = answer_from_json(line).info if line else None
        if info is None:
            raise RuntimeError("the aligner ended while it was waited for")
        return info

    async def times(self, samples: AnySamples, words: Sequence[str]) -> Times:
        """Starts and ends [words, 2] in seconds, which never go back; `words` is not empty.

        Raises NotReady, Overloaded, InternalError.
        """
        for _ in range(_ATTEMPTS):
            with closing(_Files()) as files:
                await asyncio.to_thread(files.fill, samples, words)
                found = await self._ask(Question(len(samples), len(words)), files.filled)
            if found is not None:
                return found
        raise NotReady("the aligner has gone and starts again, send the request again")

    async def _ask(self, question: Question, files: Sequence[BinaryIO]) -> Times | None:
        """The answer; None when the process ended before it came."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.setblocking(False)
            try:
                channel.connect(self._address)
            except BlockingIOError:
                raise Overloaded("too many requests wait for word times") from None
            except OSError:
                raise NotReady("the aligner has gone, and with it word times") from None
            try:
                send(channel, question, *files)
            except (BrokenPipeError, ConnectionResetError):
                return None
            await _readable(channel)
            line, answered = receive(channel)
            with ExitStack() as open_files:
                for file in answered:
                    open_files.enter_context(file)
                return _times(answer_from_json(line), answered) if line else None


class _Files:
    """Files of one request, made in a thread: closed at once if nobody waits for them any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        self.filled: tuple[BinaryIO, ...] = ()

    def fill(self, samples: AnySamples, words: Sequence[str]) -> None:
        """In a thread."""
        made = samples_file(samples), words_file(words)
        with self._lock:
            self.filled = made
            is_late = self._is_closed
        if is_late:
            self.close()

    def close(self) -> None:
        """Once, or once more when they came late."""
        with self._lock:
            self._is_closed = True
            for file in self.filled:
                file.close()


def _times(answer: Answer, files: Sequence[BinaryIO]) -> Times:
    if answer.error == "busy":
        raise Overloaded("too many requests wait for word times")
    if answer.error:
        raise InternalError("aligner")
    [file] = files
    return read_times(file, answer.num_words)


async def _readable(channel: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not came.done():
            came.set_result(None)

    loop.add_reader(channel, wake)
    try:
        await came
    finally:
        loop.remove_reader(channel)
