"""Who may come in: a replica holds so many seconds of audio and no more.

Counting seconds and not requests, because a second of audio is what costs memory and time, and a
bounded backlog of it is a bounded wait. A recording is admitted before it is decoded, by what it
says or is likely to last, and asks for more while it is decoded; what was transcribed, or held no
speech, is given back. This is the only bound on audio.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Self

from predictor.book import Book
from predictor.errors import Overloaded
from predictor.metrics import Metrics

_WINDOW_S = 30.0  # of the recent past, for the pace
_MAX_RETRY_AFTER_S = 60
_ROUNDING_S = 1e-3
_LOOK_S = 0.05
_LATELY = 32


class Admission:
    """Holds up to `max_held_audio_s` seconds of audio, waiting or running. For one event loop."""

    def __init__(self, max_held_audio_s: float, metrics: Metrics, book: Book | None = None) -> None:
        """`book`: of what other fronts of the pod hold, which counts as well."""
        self.max_held_audio_s = max_held_audio_s
        self.held_audio_s = 0.0  # by this front
        self._book = book
        self._num_leases = 0
        self._metrics = metrics
        self._rejected = metrics.audio_rejected_seconds.labels(error=Overloaded.spec.code)
        self._done: deque[tuple[float, float]] = deque()  # (time, audio seconds) lately
        self._done_s = 0.0  # their sum; a refusal must not cost a walk through them
        self._lately_s: deque[float] = deque(maxlen=_LATELY)  # of recordings that were let in
        self._line: list[Lease] = []  # that want to grow and wait for room, in order
        self._sleepers: list[asyncio.Future[None]] = []

    def check_room(self) -> None:
        """Before a request is read: raises Overloaded when not even the shortest of the recordings
        that were lately let in would fit."""
        shortest_s = min(self._lately_s, default=0.0)
        if self.pod_held_audio_s > 0 and not self._fits(shortest_s):
            raise self.overloaded(shortest_s)

    @contextmanager
    def hold(self, audio_s: float) -> Iterator[None]:
        """Keep `audio_s` of the capacity until the block ends. Raises Overloaded when it is full.

        An empty replica takes any one recording: one that is longer than the capacity must not be
        refused for ever.
        """
        with self.lease(audio_s) as lease:
            yield
            lease.done(audio_s)

    def lease(self, audio_s: float, window_s: float = math.inf) -> Lease:
        """Capacity for one recording, of which `audio_s` are taken at once. Raises Overloaded.

        `window_s` is what the recording may hold at any time, however long it is.
        """
        with self._exclusive():
            is_empty = self._num_leases == 0 and self.pod_held_audio_s <= 0
            if not is_empty and not self._fits(audio_s):
                raise self.overloaded(audio_s)
            self._lately_s.append(audio_s)
            return Lease(self, audio_s, window_s)

    async def lease_in_turn(self, audio_s: float, window_s: float = math.inf) -> Lease:
        """The same for a recording of a request that was let in: waits for room."""
        lease = Lease(self, 0.0, window_s)
        try:
            await self._take(lease, audio_s, kept_s=-1.0)
        except BaseException:
            lease.close()
            raise
        return lease

    def overloaded(self, audio_s: float) -> Overloaded:
        """The error for a request of `audio_s`, with a time after which to try again."""
        self._rejected.inc(audio_s)
        return Overloaded(
            f"{self.pod_held_audio_s:.0f} s of audio are waiting or running; {audio_s:.0f} s more "
            f"are over the limit max_held_audio_s of {self.max_held_audio_s:.0f} s",
            retry_after_s=self._seconds_for(self.held_audio_s / 2),
        )

    def _fits(self, audio_s: float) -> bool:
        """Whether there is room; those who wait for it come first."""
        return not self._line and self._has_room(audio_s)

    def _has_room(self, audio_s: float) -> bool:
        return self.pod_held_audio_s + audio_s <= self.max_held_audio_s

    @property
    def pod_held_audio_s(self) -> float:
        """By all fronts together."""
        others_s = 0.0 if self._book is None else self._book.others_held_audio_s
        return self.held_audio_s + others_s

    async def _take(self, lease: Lease, audio_s: float, kept_s: float) -> None:
        """`audio_s` more for `lease`, once there is room and it is first in line, or it holds
        nothing else."""

        def needs_no_room() -> bool:
            return lease.held_s <= kept_s + _ROUNDING_S or self.pod_held_audio_s <= _ROUNDING_S

        def is_taken() -> bool:
            is_next = not self._line or self._line[0] is lease
            with self._exclusive():
                if not needs_no_room() and not (is_next and self._has_room(audio_s)):
                    return False
                lease.held_s += audio_s
                self._add(audio_s)
            return True

        while 0 <= kept_s < lease.held_s + audio_s - lease.window_s and not needs_no_room():
            await self._change()
        if is_taken():
            return
        self._line.append(lease)
        try:
            while not is_taken():
                await self._change()
        finally:
            self._line.remove(lease)
            self._wake()

    def _exclusive(self) -> AbstractContextManager[None]:
        """Inside, what other fronts hold stays as it is."""
        return nullcontext() if self._book is None else self._book.exclusive()

    async def _change(self) -> None:
        """Returns when somebody has taken or given back."""
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        # Other fronts' changes wake nobody here: they are looked at now and then.
        await asyncio.wait({sleeper}, timeout=None if self._book is None else _LOOK_S)

    def _add(self, audio_s: float, num_leases: int = 0) -> None:
        self._num_leases += num_leases
        # Sums of seconds leave a rest when they are taken apart: nobody here means none.
        self.held_audio_s = self.held_audio_s + audio_s if self._num_leases else 0.0
        if self._book is not None:
            self._book.hold(self.held_audio_s)
        self._wake()

    def _wake(self) -> None:
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    def _count(self, audio_s: float) -> None:
        self._metrics.audio_accepted_seconds.inc(audio_s)
        self._done.append((time.monotonic(), audio_s))
        self._done_s += audio_s
        self._forget_old()

    def _seconds_for(self, audio_s: float) -> int:
        """Whole seconds, at least 1, until `audio_s` are worked off at the recent pace."""
        self._forget_old()
        if not self._done:
            return 1
        elapsed_s = max(1.0, time.monotonic() - self._done[0][0])
        pace = self._done_s / elapsed_s
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(audio_s / max(pace, 1e-6))))

    def _forget_old(self) -> None:
        while self._done and self._done[0][0] < time.monotonic() - _WINDOW_S:
            self._done_s -= self._done.popleft()[1]


class Lease:
    """What one recording holds; a context that gives all of it back at its end."""

    def __init__(self, admission: Admission, audio_s: float, window_s: float) -> None:
        self._admission = admission
        self.held_s = audio_s
        self.window_s = window_s
        self._is_open = True
        admission._add(audio_s, num_leases=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is still held."""
        if self._is_open:
            self._is_open = False
            self._admission._add(-self.held_s, num_leases=-1)
            self.held_s = 0.0

    async def grow(self, audio_s: float, kept_s: float) -> None:
        """Returns when `audio_s` more are held. Of what is held already `kept_s` can only be given
        back when there is more; a recording that holds nothing else waits for nobody (below 0:
        for everybody)."""
        await self._admission._take(self, audio_s, kept_s)

    def release(self, audio_s: float) -> None:
        """`audio_s` are no longer in memory; below 0 they turned out to be more."""
        if self._is_open:
            self.held_s -= audio_s
            self._admission._add(-audio_s)

    def done(self, audio_s: float) -> None:
        """`audio_s` were transcribed, for the metrics and the pace."""
        self._admission._count(audio_s)
