"""How far a run over many recordings is: one line on a terminal, nothing anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Recordings done, speed in times real time, and the time left by the bytes that are left."""

    def __init__(
        self,
        num_recordings: int,
        num_bytes: int,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out or sys.stderr
        self._clock = clock
        self._began_s = clock()
        self._total = num_recordings
        self._total_bytes = num_bytes
        self._done = 0
        self._done_bytes = 0
        self._failed = 0
        self._audio_s = 0.0

    def add(self, num_bytes: int, audio_s: float, *, failed: bool = False) -> None:
        """One recording has ended."""
        self._done += 1
        self._done_bytes += num_bytes
        self._audio_s += audio_s
        self._failed += failed
        if self._out.isatty():
            self._out.write(f"\r{self.line()}\x1b[K")
            self._out.flush()

    def say(self, text: str) -> None:
        """A line above the progress."""
        start = "\r\x1b[K" if self._out.isatty() else ""
        self._out.write(f"{start}{text}\n")

    def line(self) -> str:
        """`3/40 recordings, 12.1x real time, 1 failed, 00:02:10 left`"""
        elapsed_s = max(self._clock() - self._began_s, 1e-6)
        parts = [
            f"{self._done}/{self._total} recordings",
            f"{self._audio_s / elapsed_s:.1f}x real time",
        ]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if 0 < self._done_bytes < self._total_bytes:
            left = self._total_bytes - self._done_bytes
            parts.append(f"{_clock_time(elapsed_s * left / self._done_bytes)} left")
        return ", ".join(parts)

    def close(self) -> None:
        """The last word."""
        elapsed_s = self._clock() - self._began_s
        self.say(f"{self.line()}; {self._audio_s:.1f} s of audio in {elapsed_s:.1f} s")


def _clock_time(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}"
