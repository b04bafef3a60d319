"""All live sessions of a replica: how many there may be, and how they are told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from predictor.errors import NotReady, Overloaded
from predictor.metrics import Metrics


class LiveHub:
    """Places for `max_sessions` sessions; used in one event loop."""

    def __init__(self, max_sessions: int, metrics: Metrics) -> None:
        self.max_sessions = max_sessions
        self._metrics = metrics
        self._num_sessions = 0
        self._draining = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        metrics.live_sessions.set_function(lambda: self._num_sessions)
        metrics.live_sessions_limit.set(max_sessions)

    @property
    def num_sessions(self) -> int:
        """Sessions that hold a place."""
        return self._num_sessions

    @property
    def share(self) -> float:
        """Of the places, how many are taken: 0 to 1."""
        return self._num_sessions / self.max_sessions

    def check_room(self) -> None:
        """Raises Overloaded, or NotReady while the server ends."""
        if self._draining.is_set():
            raise NotReady("the server is shutting down, connect again")
        if self._num_sessions >= self.max_sessions:
            self._metrics.live_sessions_refused.inc()
            raise Overloaded(
                f"{self._num_sessions} live sessions are open, the limit max_live_sessions is "
                f"{self.max_sessions}",
                retry_after_s=5,
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place until the block ends. Raises like `check_room`."""
        self.check_room()
        self._num_sessions += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._num_sessions -= 1
            if not self._num_sessions:
                self._empty.set()

    async def draining(self) -> None:
        """Returns once sessions should come to an end."""
        await self._draining.wait()

    async def drain(self, grace_s: float) -> None:
        """Refuse new sessions, tell those that run to end, wait for them `grace_s` at most."""
        self._draining.set()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            return
