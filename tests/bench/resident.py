"""Resident memory of a server's processes over time."""

from __future__ import annotations

import threading
import time

import psutil


class Memory:
    """Resident bytes of a process and all below it, looked at twice a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.samples: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            total = 0
            for process in [root := psutil.Process(self._pid), *root.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.samples.append((time.monotonic(), total))

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def most(self, begin_s: float, end_s: float) -> float:
        """MiB, in a span of the monotonic clock; the nearest look where there is none."""
        inside = [size for at_s, size in self.samples if begin_s <= at_s <= end_s]
        nearest = min(self.samples, key=lambda sample: abs(sample[0] - end_s))[1]
        return round(max(inside, default=nearest) / 2**20, 1)
