"""A core in another process, as a client sees it: a Core like the one in a thread.

The interpreter runs one thread at a time; in a process of its own the engine's loop does not wait
for HTTP, JSON and text. Two threads move bytes: one sends requests, but for one that comes alone;
one reads tokens until a loop does. When the process has gone, its requests fail, and the next one
is waited for.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from asyncio import AbstractEventLoop
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from predictor.engine.core import HAS_FAILED, SHUTTING_DOWN
from predictor.engine.link.channel import Inbox, SpareFile, send_request
from predictor.engine.link.process import CoreProcess
from predictor.engine.link.reader import Reader
from predictor.engine.link.wire import (
    Abort,
    Chunks,
    Close,
    Failed,
    Loaded,
    Message,
    Pulse,
    Stepped,
    Submit,
    Truncate,
    encode,
    max_silence_s,
)
from predictor.engine.options import EngineOptions, EngineStats, StepStats
from predictor.engine.protocol import Emission, Receive
from predictor.engine.sequence import Limits
from predictor.errors import AsrError, InternalError, NotReady
from predictor.types import EngineRequest, ExtendRequest, TokenChunk

logger = logging.getLogger(__name__)

_NUMBERS: Final = 1 << 32  # after which numbers of requests start again
_STARTS_AGAIN: Final = "the engine starts again, try again soon"


@dataclass(frozen=True, slots=True)
class _InFlight:
    request_id: str
    receive: Receive


class RemoteCore:
    """Any thread may call it."""

    def __init__(
        self,
        address: Path,
        options: EngineOptions,
        on_step: Callable[[StepStats], None] | None = None,
        process: CoreProcess | None = None,
    ) -> None:
        """Connect and wait until the engine takes requests. Raises OSError, RuntimeError.

        `on_step` is called where tokens are read, if this server is the one that counts steps.
        `process`: the engine's, if it is ours and ends with us.
        """
        self._address = address
        self._process = process
        self._on_step = on_step
        self._max_silence_s = max_silence_s(options)
        self._lock = threading.Lock()  # of all below
        self._in_flight: dict[int, _InFlight] = {}
        self._numbers: dict[str, int] = {}
        self._last_number = 0
        self._kept: set[str] = set()  # sequences that stay alive over there
        self._lost: set[str] = set()  # those that died with a process
        self._stats: EngineStats | None = None
        self._started = self._serving = self._ending = self._dead = False
        self._loop_turns = True
        self._heard_s = 0.0
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._num_outgoing = 0  # in the queue, or being written
        self._spare = SpareFile()
        self._reads = Reader(self._hear)
        self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self.loaded = self._connect()

    @property
    def device(self) -> str:
        return self.loaded.device

    @property
    def limits(self) -> Limits:
        return self.loaded.limits

    def _connect(self) -> Loaded:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.connect(str(self._address))
            inbox = Inbox(channel)
            while (messages := inbox.read()) is not None:
                if messages:
                    break
        except BaseException:
            channel.close()
            raise
        if not messages:
            channel.close()
            raise RuntimeError("the engine's process ended while loading")
        loaded, *rest = messages
        assert isinstance(loaded, Loaded), loaded
        self._channel, self._inbox = channel, inbox
        self._heard_s, self._loop_turns = time.monotonic(), True
        self._take(rest)
        return loaded

    def start(self) -> None:
        """Start to pass requests on; once only."""
        if self._started:
            raise RuntimeError("the engine was started before")
        self._started = self._serving = True
        self._writer.start()
        self._reader.start()

    def read_in(self, loop: AbstractEventLoop) -> None:
        """Let this event loop read tokens itself, and no longer a thread."""
        self._reads.read_in(loop)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Leave the engine, and end it if it is ours; requests in flight get NotReady."""
        with self._lock:
            self._ending = True
            self._serving = False
        self._outgoing.put(None)
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._reads.leave()
        if self._started:
            self._writer.join(timeout_s)
            self._reader.join(timeout_s)
        self._channel.close()
        with self._lock:
            self._spare.close()
        if self._process is not None:
            self._process.stop(timeout_s)
        self._fail_all(lambda _: NotReady(SHUTTING_DOWN))

    def is_alive(self) -> bool:
        """The process is there or comes back; its loop turns, and it said so not long ago."""
        if not self._started or self._ending or self._dead:
            return False
        if not self._serving:
            return True  # whoever started the process looks after it
        return self._loop_turns and time.monotonic() - self._heard_s < self._max_silence_s

    def is_serving(self) -> bool:
        """Whether a request would be taken now."""
        return self._serving and self.is_alive()

    def stats(self) -> EngineStats:
        """What the engine said last: after each step, and every second."""
        stats = self._stats
        if stats is None or not self._serving:
            num_slots, max_model_len = self.loaded.num_slots, self.limits.max_model_len
            return EngineStats(0, 0, 0.0, 0.0, num_slots, max_model_len, num_unprepared=1)
        return stats

    def submit(self, request: EngineRequest, receive: Receive) -> None:
        """Queue a request. Raises NotReady; all else comes to `receive`."""
        with self._lock:
            self._send(request, receive)

    def extend(self, request: ExtendRequest, receive: Receive) -> None:
        """Queue a step of a kept sequence. Raises NotReady; all else comes to `receive`.

        NotReady comes there too when what it goes on from died with the engine's process: the whole
        utterance must be sent anew.
        """
        with self._lock:
            is_lost = request.sequence_id in self._lost and not request.starts_anew
            if not is_lost:
                self._send(request, receive)
                self._lost.discard(request.sequence_id)
                self._kept.add(request.sequence_id)
        if is_lost:
            error = NotReady("the engine started again and lost what it had heard so far")
            receive([(request.request_id, error)])

    def truncate(self, sequence_id: str, num_samples: int) -> None:
        """A kept sequence back to its first samples. No step of it may be in flight."""
        with self._lock:
            if sequence_id in self._kept:
                self._put(Truncate(sequence_id, num_samples))

    def close(self, sequence_id: str) -> None:
        """Forget a kept sequence; a step of it that is under way is aborted."""
        with self._lock:
            self._lost.discard(sequence_id)
            if sequence_id in self._kept:
                self._kept.remove(sequence_id)
                self._put(Close(sequence_id))

    def _send(self, request: EngineRequest | ExtendRequest, receive: Receive) -> None:
        """The lock is held."""
        if not self._serving:
            raise NotReady(self._why_not())
        number = self._last_number = (self._last_number + 1) % _NUMBERS
        self._in_flight[number] = _InFlight(request.request_id, receive)
        self._numbers[request.request_id] = number
        message = Submit(number, request)
        # One that comes alone goes at once: the writer would get the interpreter only when this
        # thread has done all else that there is to do for the request.
        if self._num_outgoing or not self._spare.send(self._channel, message, self._in_flight):
            self._put(message)

    def _put(self, message: Message) -> None:
        """To the writer; the lock is held."""
        self._num_outgoing += 1
        self._outgoing.put(message)

    def _why_not(self) -> str:
        if self._ending:
            return SHUTTING_DOWN
        return HAS_FAILED if self._dead or not self._started else _STARTS_AGAIN

    def abort(self, request_id: str) -> None:
        """End a request with finish "abort" and free its place; unknown ids are ignored."""
        with self._lock:
            if request_id in self._numbers:
                self._put(Abort(request_id))

    def _write(self) -> None:
        """The writer's thread; copying samples is its work and not an event loop's."""
        while (message := self._outgoing.get()) is not None:
            self._write_one(message)
            with self._lock:
                self._num_outgoing -= 1
            del message  # or its samples would be kept until there is another one

    def _write_one(self, message: Message) -> None:
        try:
            if not isinstance(message, Submit):
                self._channel.sendall(encode(message))
            elif message.number in self._in_flight:
                send_request(self._channel, message)
        except Exception:
            if not self._serving or not self._is_connected():
                return  # the reader sees it too, and tells everyone
            # No memory, no descriptors: the others go on.
            logger.exception("a request could not be passed to the engine's process")
            if isinstance(message, Submit):
                error = InternalError(message.request.request_id)
                self._take([Failed(message.number, error)])

    def _is_connected(self) -> bool:
        with suppress(OSError):
            self._channel.getpeername()
            return True
        return False

    def _read(self) -> None:
        """The reader's thread, until the process has gone for good."""
        while True:
            self._reads.until_gone(self._channel, self._inbox)
            with self._lock:
                self._serving = False
                if self._ending:
                    return
            self._fail_all(InternalError)
            if not self._is_back():
                return

    def _is_back(self) -> bool:
        """Wait for the process that takes the place of the one that has gone."""
        self._channel.close()
        try:
            self.loaded = self._connect()
        except (OSError, RuntimeError):
            logger.error("the engine has gone for good")
            with self._lock:
                self._dead = True
            return False
        with self._lock:
            self._serving = not self._ending
        return self._serving

    def _hear(self, messages: list[Message]) -> None:
        self._heard_s = time.monotonic()
        self._take(messages)

    def _take(self, messages: list[Message]) -> None:
        """Enter what has arrived in the books, and tell whom it concerns."""
        items: list[tuple[int, TokenChunk | AsrError]] = []
        steps: list[StepStats] = []
        for message in messages:
            if isinstance(message, Chunks):
                items += message.items
            elif isinstance(message, Failed):
                items.append((message.number, message.error))
            elif isinstance(message, Stepped):
                self._stats = message.now
                steps += message.steps
            elif isinstance(message, Pulse):
                self._stats = message.now
                self._loop_turns = message.is_alive
        by_receiver: dict[Receive, list[Emission]] = defaultdict(list)
        for number, item in items:
            found = self._in_flight.get(number)
            if found is None:
                continue
            if isinstance(item, AsrError) or item.finish is not None:
                self._forget(number)
            by_receiver[found.receive].append((found.request_id, item))
        for receive, emissions in by_receiver.items():
            receive(emissions)
        for step in steps:
            self._observe(step)

    def _forget(self, number: int) -> None:
        with self._lock:
            found = self._in_flight.pop(number, None)
            if found is not None and self._numbers.get(found.request_id) == number:
                del self._numbers[found.request_id]

    def _observe(self, step: StepStats) -> None:
        if self._on_step is None:
            return
        try:
            self._on_step(step)
        except Exception:
            logger.exception("the engine's observer failed")

    def _fail_all(self, error: Callable[[str], AsrError]) -> None:
        with self._lock:
            dropped = list(self._in_flight.values())
            self._in_flight.clear()
            self._numbers.clear()
            self._lost |= self._kept
            self._kept.clear()
        for found in dropped:
            found.receive([(found.request_id, error(found.request_id))])
