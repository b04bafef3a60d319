"""Worker processes that decode: a recording that crashes or hangs its decoder costs only itself.

Two lanes, so that a short recording never waits for a long one: what is or turns out to be long is
decoded in the second lane, whose processes are started when they are needed and spend most of their
time waiting until the pieces they found have been transcribed.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from predictor.audio.job import Job, Message
from predictor.audio.process import Worker, WorkerDiedError
from predictor.errors import AsrError, AudioError, InternalError, NotReady
from predictor.types import AnySamples

logger = logging.getLogger(__name__)

Received = tuple[Message, AnySamples | None]


@dataclass(frozen=True, slots=True)
class PoolObserver:
    """Hears what the workers do, in the event loop or in threads."""

    busy: Callable[[str, int], None] = lambda lane, more: None  # so many more work in that lane
    replaced: Callable[[], None] = lambda: None  # one was of no use any more


class _Lane:
    """Some places for processes; who comes when all are taken waits for a turn, in order."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.workers: list[Worker | None] = [None] * size
        self.idle = list(range(size))
        self.turns = asyncio.Semaphore(size)
        self.num_waiting = 0


class _Call:
    """One job under way, between the thread at the worker's socket and the event loop."""

    def __init__(self, job: Job, data: bytes | memoryview) -> None:
        self.job = job
        self.data = data
        self.answers: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[Received | AsrError] = asyncio.Queue()
        self.num_posted = 0
        self.work: asyncio.Future[None] | None = None  # done when the worker is free again

    def post(self, item: Received | AsrError) -> None:
        """From the thread: one more message, or the error that ends the job."""
        self.num_posted += 1
        try:
            self._loop.call_soon_threadsafe(self._received.put_nowait, item)
        except RuntimeError:  # the loop is closed, and nobody waits
            self.answers.put(None)

    async def next(self) -> Received:
        """The next message. Raises the error that ended the job."""
        item = await self._received.get()
        is_last = isinstance(item, AsrError) or item[0].kind in ("end", "error")
        if is_last and self.work is not None:
            await asyncio.wait({self.work})
        if isinstance(item, AsrError):
            raise item
        return item


class DecoderPool:
    """A fixed number of workers for short recordings, and up to `num_long` more for long ones."""

    def __init__(
        self, num_workers: int, num_long: int, observer: PoolObserver | None = None
    ) -> None:
        self._num_workers = num_workers
        self._observer = observer or PoolObserver()
        self._short = _Lane("short", num_workers)
        self._long = _Lane("long", num_long)
        self._threads = ThreadPoolExecutor(num_workers + num_long, thread_name_prefix="decode")
        self._calls: set[_Call] = set()
        self._lock = threading.Lock()  # of the lanes' workers and `_closed`
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, for whoever looks after the machine."""
        return [w.pid for w in [*self._short.workers, *self._long.workers] if w is not None]

    def start(self) -> None:
        """Start the processes and wait until they can decode. Raises WorkerDiedError."""
        self._short.workers = [Worker() for _ in range(self._num_workers)]
        try:
            for worker in self._short.workers:
                assert worker is not None
                worker.wait_ready()
        except WorkerDiedError:
            self.close()
            raise

    def close(self) -> None:
        """End the processes at once; recordings being decoded fail with NotReady."""
        with self._lock:
            self._closed = True
            workers = [w for lane in (self._short, self._long) for w in lane.workers if w]
            for worker in workers:
                worker.kill()
        for call in list(self._calls):
            call.answers.put(None)
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in workers:
            worker.close()

    def decode(self, job: Job, data: bytes | memoryview, *, is_long: bool) -> Decoding:
        """A job, to be entered; nothing is done before."""
        return Decoding(self, job, data, self._long if is_long else self._short, self._long)

    async def begin(self, lane: _Lane, call: _Call) -> None:
        """Returns when a worker of the lane has taken the job.

        A caller that is cancelled while it waits leaves the queue; decoding that has begun goes on
        until it next asks or ends, since that is cheaper than a new process.
        """
        lane.num_waiting += 1
        try:
            await lane.turns.acquire()
        finally:
            lane.num_waiting -= 1
        if self._closed:
            lane.turns.release()
            raise NotReady("shutting down")
        slot = lane.idle.pop()
        self._observer.busy(lane.name, 1)
        self._calls.add(call)
        call.work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._serve, lane, slot, call
        )
        call.work.add_done_callback(lambda done: self._end(lane, slot, call, done))

    def _end(self, lane: _Lane, slot: int, call: _Call, done: asyncio.Future[None]) -> None:
        self._calls.discard(call)
        self._observer.busy(lane.name, -1)
        lane.idle.append(slot)
        lane.turns.release()
        if not done.cancelled() and (error := done.exception()) is not None:
            request_id = uuid.uuid4().hex
            logger.error("request %s: %r", request_id, error, exc_info=error)
            call.post(InternalError(request_id))
        elif done.cancelled():
            call.post(NotReady("shutting down"))

    def _serve(self, lane: _Lane, slot: int, call: _Call) -> None:
        """In a thread: the job from its beginning to its end, in the worker of this slot."""
        self._serve_one(lane, slot, call)
        if lane is self._long and not lane.num_waiting:
            self._retire(lane, slot)

    def _retire(self, lane: _Lane, slot: int) -> None:
        """End a process that nobody needs now."""
        with self._lock:
            worker = lane.workers[slot]
            if worker is not None and not self._closed:
                lane.workers[slot] = None
                worker.close()

    def _serve_one(self, lane: _Lane, slot: int, call: _Call) -> None:
        for is_retry in (False, True):
            try:
                self._exchange(self._worker(lane, slot), call)
                return
            except NotReady as error:
                call.post(error)
                return
            except TimeoutError:
                call.post(self._replaced(lane, slot, "time limit") or _timeout_error(call.job))
                return
            except WorkerDiedError as error:
                closed = self._replaced(lane, slot, str(error))
                if (
                    closed is None
                    and error.is_from_outside
                    and not is_retry
                    and not call.num_posted
                ):
                    continue
                call.post(closed or _crash_error(error, call.job))
                return

    def _exchange(self, worker: Worker, call: _Call) -> None:
        worker.begin(call.job, call.data)
        while True:
            message, samples = worker.receive(call.job.limits.decode_timeout_s)
            call.post((message, samples))
            if message.kind in ("end", "error"):
                return
            if message.kind == "more":
                answer = call.answers.get()
                worker.answer(answer)
                if answer is None:
                    worker.receive(call.job.limits.decode_timeout_s)  # that it has stopped
                    return

    def _worker(self, lane: _Lane, slot: int) -> Worker:
        with self._lock:
            if self._closed:
                raise NotReady("shutting down")
            worker = lane.workers[slot]
            if worker is None:
                worker = lane.workers[slot] = Worker()
            return worker

    def _replaced(self, lane: _Lane, slot: int, reason: str) -> NotReady | None:
        """A new worker in place of one that is of no use; the error to answer when closing."""
        with self._lock:
            if self._closed:
                return NotReady("shutting down")
            logger.warning("decoder process replaced: %s", reason)
            self._observer.replaced()
            if (worker := lane.workers[slot]) is not None:
                worker.close()
            lane.workers[slot] = Worker() if lane is self._short else None
            return None


class Decoding:
    """The messages of one job, one after the other.

    A job that asks for more is long: where it was begun in the lane for short ones it begins again
    in the other, and what was handed out before is not handed out again.
    """

    def __init__(
        self, pool: DecoderPool, job: Job, data: bytes | memoryview, lane: _Lane, long: _Lane
    ) -> None:
        self._pool = pool
        self._job = replace(job, is_long=job.is_long or lane is long)
        self._data = data
        self._lane = lane
        self._long = long
        self._call: _Call | None = None
        self._num_given = 0  # pieces
        self._num_seen = 0  # of them since the job last began

    async def __aenter__(self) -> Decoding:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop()

    def is_in_its_lane(self) -> bool:
        """For a job that asks for more: whether it goes on where it is when it is granted that.

        If not it has left its place to others, and begins again among the long ones.
        """
        if self._lane is self._long:
            return True
        self._stop()
        self._lane, self._job = self._long, replace(self._job, is_long=True)
        return False

    async def next(self) -> Received:
        """Raises AudioError, AudioTooLong, InvalidInput, InternalError, NotReady."""
        while True:
            if self._call is None:
                call = _Call(self._job, self._data)
                await self._pool.begin(self._lane, call)
                self._call, self._num_seen = call, 0
            message, samples = await self._call.next()
            message.raise_error(self._job.field)
            if message.kind == "piece":
                self._num_seen += 1
                if self._num_seen <= self._num_given:
                    continue
                self._num_given = self._num_seen
            return message, samples

    def grant(self, total_s: float) -> None:
        """The answer to a message that asks for more."""
        self._job = replace(self._job, granted_s=total_s)
        if self._call is not None:
            self._call.answers.put(total_s)

    def _stop(self) -> None:
        if self._call is not None:
            self._call.answers.put(None)
            self._call = None


def _timeout_error(job: Job) -> AudioError:
    limit_s = job.limits.decode_timeout_s
    return AudioError(
        f"{job.field}: decoding takes longer than {limit_s:g} s",
        field=job.field,
        value=f">{limit_s:g}",
        limit=limit_s,
    )


def _crash_error(error: WorkerDiedError, job: Job) -> AudioError | InternalError:
    """Whose fault it was: the recording's, or the machine's (memory, a broken installation)."""
    if error.is_from_outside:
        request_id = uuid.uuid4().hex
        logger.error("request %s: %s", request_id, error)
        return InternalError(request_id)
    container = job.container or "PCM"
    return AudioError(
        f"{job.field}: the {container} decoder crashed on this audio",
        field=job.field,
        value=container,
        limit="a complete audio file",
    )
