"""Worker processes that decode: a recording that crashes or hangs its decoder costs only itself."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from predictor.audio.process import Worker, WorkerDiedError
from predictor.audio.worker import Job
from predictor.errors import AudioError, InternalError, NotReady

logger = logging.getLogger(__name__)


class DecoderPool:
    """A fixed number of workers; more recordings wait for their turn in order."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._workers: list[Worker] = []
        self._idle = list(range(num_workers))
        self._slots = asyncio.Semaphore(num_workers)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")
        self._tasks: set[asyncio.Task[tuple[NDArray[np.float32], int]]] = set()
        self._lock = threading.Lock()  # of `_workers` and `_closed`
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, for whoever looks after the machine."""
        return [worker.pid for worker in self._workers]

    def start(self) -> None:
        """Start the processes and wait until they can decode. Raises WorkerDiedError."""
        self._workers = [Worker() for _ in range(self._num_workers)]
        try:
            for worker in self._workers:
                worker.wait_ready()
        except WorkerDiedError:
            self.close()
            raise

    def close(self) -> None:
        """End the processes at once; recordings being decoded fail with NotReady."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    async def run(self, job: Job, data: bytes | memoryview) -> tuple[NDArray[np.float32], int]:
        """Samples [n] at the recording's own rate, and that rate.

        A caller that is cancelled while it waits leaves the queue; once decoding has begun it goes
        on to its end, since that is cheaper than a new process. Raises AudioError, AudioTooLong,
        InvalidInput, InternalError, NotReady.
        """
        await self._slots.acquire()
        task = asyncio.create_task(self._run_in_slot(job, data))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[tuple[NDArray[np.float32], int]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, even if the caller has left

    async def _run_in_slot(
        self, job: Job, data: bytes | memoryview
    ) -> tuple[NDArray[np.float32], int]:
        slot = self._idle.pop()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._call, slot, job, data)
        finally:
            self._idle.append(slot)
            self._slots.release()

    def _call(
        self, slot: int, job: Job, data: bytes | memoryview, *, is_retry: bool = False
    ) -> tuple[NDArray[np.float32], int]:
        try:
            return self._workers[slot].call(job, data)
        except TimeoutError as error:
            self._replace(slot, "time limit")
            limit_s = job.limits.decode_timeout_s
            raise AudioError(
                f"{job.field}: decoding takes longer than {limit_s:g} s",
                field=job.field,
                value=f">{limit_s:g}",
                limit=limit_s,
            ) from error
        except WorkerDiedError as error:
            self._replace(slot, str(error))
            if error.is_from_outside and not is_retry:
                return self._call(slot, job, data, is_retry=True)
            raise _crash_error(error, job) from error

    def _replace(self, slot: int, reason: str) -> None:
        with self._lock:
            if self._closed:
                raise NotReady("shutting down")
            logger.warning("decoder process replaced: %s", reason)
            self._workers[slot].close()
            self._workers[slot] = Worker()


def _crash_error(error: WorkerDiedError, job: Job) -> AudioError | InternalError:
    """Whose fault it was: the recording's, or the machine's (memory, a broken installation)."""
    if error.is_from_outside:
        request_id = uuid.uuid4().hex
        logger.error("request %s: %s", request_id, error)
        return InternalError(request_id)
    return AudioError(
        f"{job.field}: the {job.container} decoder crashed on this audio",
        field=job.field,
        value=job.container,
        limit="a complete audio file",
    )
