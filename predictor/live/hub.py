"""All live sessions of a replica: how many there may be, and how they are told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from predictor.book import Book
from predictor.errors import NotReady, Overloaded
from predictor.metrics import Metrics


class LiveHub:
    """Places for `max_sessions` sessions; used in one event loop."""

    def __init__(self, max_sessions: int, metrics: Metrics, book: Book | None = None) -> None:
        """`book`: of the sessions that other fronts of the pod have, which count as well."""
        self.max_sessions = max_sessions
        self._book = book
        self._metrics = metrics
        self._num_sessions = 0
        self._draining = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        metrics.live_sessions.set_function(lambda: self.num_sessions)
        metrics.live_sessions_limit.set(max_sessions)

    @property
    def num_sessions(self) -> int:
        """Sessions that hold a place, of the whole pod."""
        return self._num_sessions + (0 if self._book is None else self._book.others_num_sessions)

    @property
    def share(self) -> float:
        """Of the places, how many are taken: 0 to 1."""
        return self.num_sessions / self.max_sessions

    def check_room(self) -> None:
        """Raises Overloaded, or NotReady while the server ends."""
        if self._draining.is_set():
            raise NotReady("the server is shutting down, connect again")
        if (num_sessions := self.num_sessions) >= self.max_sessions:
            self._metrics.live_sessions_refused.inc()
            raise Overloaded(
                f"{num_sessions} live sessions are open, the limit max_live_sessions is "
                f"{self.max_sessions}",
                retry_after_s=5,
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place until the block ends. Raises like `check_room`."""
        with nullcontext() if self._book is None else self._book.exclusive():
            self.check_room()
            self._count(1)
        self._empty.clear()
        try:
            yield
        finally:
            self._count(-1)
            if not self._num_sessions:
                self._empty.set()

    def _count(self, more: int) -> None:
        self._num_sessions += more
        if self._book is not None:
            self._book.have_sessions(self._num_sessions)

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
