"""Predictors whose processes can be stopped where they are."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from pipelines.lib.errors import PipelineError
from pipelines.local_service import LocalService


class Server(LocalService):
    """A predictor whose processes can be stopped where they are."""

    def __init__(self, checkpoint: Path, *, flags: tuple[str, ...] = ()) -> None:
        super().__init__(checkpoint, flags=flags)
        self.over = threading.Event()  # it is to end

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self.over.set()
        if self._process is not None:
            self._process.kill()
        self.close()

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def engine(self) -> int | None:
        """The engine's process, if there is one now."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            named = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
        except (OSError, AssertionError):  # one ended meanwhile, or none was started
            return None
        return next((int(pid) for pid, command in named.items() if "engine" in command), None)


class Loading(Server):
    """One that is watched while it loads: the block begins when it listens, not when it is ready.

    `held_s`: how long its engine's process is stopped as soon as it is there.
    """

    held_s = float("inf")

    def __enter__(self) -> Self:
        threading.Thread(target=self._load, daemon=True).start()
        wait_until(lambda: bool(self.url))
        threading.Thread(target=self._hold, daemon=True).start()
        return self

    def _load(self) -> None:
        with suppress(PipelineError):  # it was killed before it was ready
            super().__enter__()

    def _hold(self) -> None:
        wait_until(lambda: self.engine() is not None)
        pid = self.engine()
        if pid is not None:
            with self.stopped(pid):
                self.over.wait(self.held_s if self.held_s < float("inf") else None)


class Slow(Loading):
    """Its disk takes seconds to answer."""

    held_s = 8.0


def wait_until(holds: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Look ten times a second."""
    pause = threading.Event()
    for _ in range(round(timeout_s * 10)):
        if holds():
            return
        pause.wait(0.1)
    raise TimeoutError
