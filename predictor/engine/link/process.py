"""An engine in a process of its own: an Engine to whoever uses it.

The interpreter runs one thread at a time; in a process of its own the engine's loop does not wait
for HTTP, JSON and text. Two threads here move bytes: one passes requests on with their samples,
one reads tokens and hands them to the event loops.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from predictor.engine.link.child import Child
from predictor.engine.link.ledger import Entry, Ledger
from predictor.engine.link.wire import (
    Abort,
    Chunks,
    EngineSpec,
    Failed,
    Message,
    Pulse,
    Stepped,
    pulse_s,
)
from predictor.engine.options import EngineStats, StepStats
from predictor.engine.stream import Delivery, Outlet, TokenStream
from predictor.errors import AsrError, InternalError, NotReady
from predictor.types import EngineRequest, TokenChunk

logger = logging.getLogger(__name__)

WORKER: Final = "predictor.engine.link.worker"
_SHUTTING_DOWN: Final = "the engine is shutting down"


class EngineProcess:
    """`submit` belongs to event loops, everything else to any thread."""

    def __init__(
        self,
        spec: EngineSpec,
        on_step: Callable[[StepStats], None] | None = None,
        *,
        worker: str = WORKER,
    ) -> None:
        """Start the process and wait until it has loaded; `worker` is the module it runs.

        `on_step` is called in a thread of ours soon after each step. Raises what kept it from
        loading: CheckpointError, ValueError, RuntimeError.
        """
        self._on_step = on_step
        self._max_silence_s = spec.options.stall_timeout_s + 2 * pulse_s(spec.options)
        self._child = Child(worker)
        self.loaded = self._child.load(spec)
        self._ledger = Ledger(spec.options, self.loaded)
        self._lock = threading.Lock()  # of the ledger and of the flags below
        self._started = False
        self._ending = False  # stop() was called
        self._dead = False  # the process has gone
        self._loop_turns = True  # as the process said last
        self._heard_s = 0.0  # when it last said anything
        self._outgoing: queue.SimpleQueue[Entry | Abort | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)

    @property
    def pid(self) -> int:
        """The process id, for whoever looks after the machine."""
        return self._child.pid

    def start(self) -> None:
        """Start to pass requests on; once only."""
        if self._started:
            raise RuntimeError("the engine was started before")
        self._started = True
        self._heard_s = time.monotonic()
        self._writer.start()
        self._reader.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the process after its current step; streams in flight raise NotReady."""
        with self._lock:
            self._ending = True
        self._outgoing.put(None)
        self._child.end(timeout_s)
        if self._started:
            self._writer.join()
            self._reader.join()
        self._child.close()
        self._fail_all(lambda _: NotReady(_SHUTTING_DOWN))

    def is_alive(self) -> bool:
        """The process is there, its loop turns, and it said so not long ago."""
        if not self._started or self._ending or self._dead:
            return False
        return self._loop_turns and time.monotonic() - self._heard_s < self._max_silence_s

    def stats(self) -> EngineStats:
        """Plain figures of this moment."""
        with self._lock:
            return self._ledger.stats()

    def submit(self, request: EngineRequest) -> TokenStream:
        """Queue a request from the event loop's thread; its tokens come through the stream.

        Raises InvalidInput, Overloaded or NotReady at once.
        """
        stream = TokenStream(request.request_id, self.abort)
        with self._lock:
            if self._ending or self._dead:
                raise NotReady(_SHUTTING_DOWN if self._ending else "the engine has failed")
            self._outgoing.put(self._ledger.add(request, stream))
        return stream

    def abort(self, request_id: str) -> None:
        """End a request with finish "abort" and free its place; unknown ids are ignored."""
        entry = self._drop(request_id)
        if entry is not None:
            self._deliver([(entry.sink, entry.sequence.abort_chunk())])

    def _drop(self, request_id: str) -> Entry | None:
        with self._lock:
            entry = self._ledger.abort(request_id)
            if entry is not None:
                self._outgoing.put(Abort(request_id))
        return entry

    def _write(self) -> None:
        """The writer's thread; copying samples is its work and not an event loop's."""
        while (item := self._outgoing.get()) is not None:
            try:
                if isinstance(item, Entry):
                    self._child.send_request(item.number, item.sequence.request)
                else:
                    self._child.send(item)
            except (BrokenPipeError, ConnectionResetError):
                return  # the reader sees it too, and tells everyone
            except Exception:  # no memory, no descriptors: the others go on
                logger.exception("a request could not be passed to the engine's process")
                if isinstance(item, Entry):
                    error = InternalError(item.sequence.request.request_id)
                    self._take([Failed(item.number, error)])

    def _read(self) -> None:
        """The reader's thread, until the process has gone."""
        try:
            while (messages := self._child.receive()) is not None:
                self._heard_s = time.monotonic()
                self._take(messages)
        finally:
            if not self._ending:
                self._die()

    def _take(self, messages: list[Message]) -> None:
        """Enter what has arrived in the books, and tell whom it concerns."""
        items: list[tuple[int, TokenChunk | AsrError]] = []
        for message in messages:
            if isinstance(message, Chunks):
                items += message.items
            elif isinstance(message, Failed):
                items.append((message.number, message.error))
            elif isinstance(message, Stepped):
                self._observe(message.stats)
            elif isinstance(message, Pulse):
                self._loop_turns = message.is_alive
        with self._lock:
            taken = [(self._ledger.take(number, item), item) for number, item in items]
        self._deliver([(sink, item) for sink, item in taken if sink is not None])

    def _observe(self, stats: StepStats) -> None:
        with self._lock:
            self._ledger.add_step(stats.seconds)
        if self._on_step is None:
            return
        try:
            self._on_step(stats)
        except Exception:
            logger.exception("the engine's observer failed")

    def _die(self) -> None:
        """The process has gone: `is_alive` says so, and nobody is left waiting."""
        with self._lock:
            self._dead = True
        self._fail_all(InternalError)
        logger.error("the engine's process ended with %d", self._child.exit_code())

    def _fail_all(self, error: Callable[[str], AsrError]) -> None:
        with self._lock:
            dropped = self._ledger.drop_all()
        self._deliver([(entry.sink, error(entry.sink.request_id)) for entry in dropped])

    def _deliver(self, deliveries: list[Delivery]) -> None:
        """Hand items to their event loops, with one wake-up for each loop."""
        by_outlet: dict[Outlet, list[Delivery]] = defaultdict(list)
        for delivery in deliveries:
            by_outlet[delivery[0].outlet].append(delivery)
        for outlet, items in by_outlet.items():
            try:
                outlet.hand_over(items)
            except RuntimeError:  # the loop is closed: nobody is left to listen
                for sink, _ in items:
                    self._drop(sink.request_id)
