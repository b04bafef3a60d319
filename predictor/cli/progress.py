"""How far a run over recordings is: one line with a bar on a terminal, nothing anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

_WIDTH: Final = 20  # characters of the bar
_DRAWN_S: Final = 0.2  # the least time between two drawings


class Progress:
    """Recordings done, speed in times real time, and the time left by the bytes that are left; of
    those under way as much counts as was heard. May be told from several threads."""

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
        self._under_way: dict[object, tuple[float, float]] = {}  # seconds, bytes that are heard
        self._drawn_s = -_DRAWN_S
        self._lock = threading.RLock()

    def begin(self) -> None:
        """The empty bar."""
        with self._lock:
            self._draw(at_once=True)

    def heard(self, key: object, num_bytes: int, done_s: float, stated_s: float | None) -> None:
        """`key`, a recording under way, is done up to `done_s` of the `stated_s` that it says."""
        share = min(1.0, done_s / stated_s) if stated_s else 0.0
        with self._lock:
            self._under_way[key] = done_s, num_bytes * share
            self._draw()

    def add(
        self, num_bytes: int, audio_s: float, *, failed: bool = False, key: object = None
    ) -> None:
        """One recording has ended."""
        with self._lock:
            self._under_way.pop(key, None)
            self._done += 1
            self._done_bytes += num_bytes
            self._audio_s += audio_s
            self._failed += failed
            self._draw(at_once=True)

    def say(self, text: str) -> None:
        """A line above the progress."""
        with self._lock:
            self.clear()
            self._out.write(f"{text}\n")

    def clear(self) -> None:
        """Before something else is written on the same terminal."""
        if self._out.isatty():
            self._out.write("\r\x1b[K")
            self._out.flush()

    def line(self) -> str:
        """`[#####     ] 3/40 recordings, 12.1x real time, 1 failed, 00:02:10 left`"""
        done_bytes = self._heard_bytes()
        share = done_bytes / self._total_bytes if self._total_bytes else self._done / self._total
        text = f"[{'#' * int(_WIDTH * share):<{_WIDTH}}] {self._summary()}"
        if 0 < done_bytes < self._total_bytes:
            elapsed_s = self._clock() - self._began_s
            left_s = elapsed_s * (self._total_bytes - done_bytes) / done_bytes
            text += f", {_clock_time(left_s)} left"
        return text

    def _summary(self) -> str:
        elapsed_s = max(self._clock() - self._began_s, 1e-6)
        audio_s = self._audio_s + sum(done_s for done_s, _ in self._under_way.values())
        text = f"{self._done}/{self._total} recordings, {audio_s / elapsed_s:.1f}x real time"
        return f"{text}, {self._failed} failed" if self._failed else text

    def _heard_bytes(self) -> float:
        return self._done_bytes + sum(size for _, size in self._under_way.values())

    def _draw(self, *, at_once: bool = False) -> None:
        if not self._out.isatty() or not (at_once or self._clock() - self._drawn_s >= _DRAWN_S):
            return
        self._drawn_s = self._clock()
        self._out.write(f"\r{self.line()}\x1b[K")
        self._out.flush()

    def close(self) -> None:
        """The last word."""
        elapsed_s = self._clock() - self._began_s
        self.say(f"{self._summary()}; {self._audio_s:.1f} s of audio in {elapsed_s:.1f} s")


def _clock_time(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}"
