"""The speech detector for all sessions of a process: what waits together is heard together.

A frame alone costs several times what it costs in a batch, and numpy releases the GIL in the large
products, so one thread serves many streams beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from predictor.audio.vad import SpeechDetector, VadState

Floats = NDArray[np.float32]
_Job = tuple[Floats, VadState, "asyncio.Future[tuple[Floats, VadState]]"]

MAX_FRAMES = 64  # of one stream at once, so that a burst does not hold up the others
_MAX_STREAMS = 256


class SpeechBatch:
    """Hears frames of many streams; made and used in one event loop."""

    def __init__(self, detector: SpeechDetector) -> None:
        self._detector = detector
        self._thread = ThreadPoolExecutor(1, "speech")
        self._waiting: list[_Job] = []
        self._task: asyncio.Task[None] | None = None

    async def hear(self, frames: Floats, state: VadState) -> tuple[Floats, VadState]:
        """Frames [n <= 64, 512] of one stream -> probabilities [n], and the state after."""
        assert len(frames) <= MAX_FRAMES
        future: asyncio.Future[tuple[Floats, VadState]] = asyncio.get_running_loop().create_future()
        self._waiting.append((frames, state, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            by_size: dict[int, list[_Job]] = defaultdict(list)
            for job in waiting:
                if not job[2].cancelled():
                    by_size[len(job[0])].append(job)
            for jobs in by_size.values():
                for start in range(0, len(jobs), _MAX_STREAMS):
                    part = jobs[start : start + _MAX_STREAMS]
                    try:
                        heard, after = await loop.run_in_executor(self._thread, self._hear, part)
                    except Exception as error:  # noqa: BLE001  those who wait must know
                        for _, _, future in part:
                            if not future.done():
                                future.set_exception(error)
                        continue
                    for i, (_, _, future) in enumerate(part):
                        if not future.done():
                            future.set_result((heard[i], after.take(i)))

    def _hear(self, jobs: list[_Job]) -> tuple[Floats, VadState]:
        frames = np.stack([frames for frames, _, _ in jobs])
        return self._detector.hear(frames, VadState.stack([state for _, state, _ in jobs]))
