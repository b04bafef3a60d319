"""A supervised process, with real children: it starts again once, whatever it died of."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from predictor.processes import Supervisor

LIMIT_S = 60.0


def until(holds: Callable[[], object]) -> None:
    """Wait until it holds."""
    end_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)


class Held:
    """A supervisor of `tests.processes.child`, and what became of it."""

    def __init__(self, folder: Path, *kinds: str, max_silence_s: float | None = None) -> None:
        self.starts = folder / "starts"
        self.lost = threading.Event()
        self.supervisor: Supervisor[bytes] = Supervisor(
            "child",
            "tests.processes.child",
            lambda channel: channel.recv(6) or None,
            on_lost=self.lost.set,
            min_reload_s=1.0,
        )
        greeting = {"starts": str(self.starts), "kinds": kinds}
        self.supervisor.greet(json.dumps(greeting).encode(), max_silence_s)

    def num_starts(self) -> int:
        return len(self.starts.read_text(encoding="utf-8"))

    def can_connect(self) -> bool:
        with socket.socket(socket.AF_UNIX) as channel:
            try:
                channel.connect(str(self.supervisor.address))
            except OSError:
                return False
        return True


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Held]]:
    held: list[Held] = []

    def start(*kinds: str, max_silence_s: float | None = None) -> Held:
        held.append(Held(tmp_path, *kinds, max_silence_s=max_silence_s))
        assert held[-1].supervisor.wait_loaded() == b"loaded"
        return held[-1]

    yield start
    for each in held:
        each.supervisor.stop()


def test_it_starts_again_once_and_servers_wait_in_line_meanwhile(
    hold: Callable[..., Held],
) -> None:
    child = hold("fine", "fine")
    first = child.supervisor.pid
    os.kill(first, signal.SIGKILL)
    assert child.can_connect()
    until(lambda: child.num_starts() == 2 and child.supervisor.pid != first)
    assert not child.lost.is_set()
    os.kill(child.supervisor.pid, signal.SIGKILL)
    assert child.lost.wait(LIMIT_S)
    until(lambda: not child.can_connect())


def test_one_that_falls_silent_is_ended_and_started_again(hold: Callable[..., Held]) -> None:
    child = hold("silent", "fine", max_silence_s=1.0)
    until(lambda: child.num_starts() == 2)
    assert not child.lost.is_set()


def test_a_second_start_that_hangs_is_not_waited_for_for_ever(hold: Callable[..., Held]) -> None:
    child = hold("fine", "hang")
    os.kill(child.supervisor.pid, signal.SIGKILL)
    assert child.lost.wait(LIMIT_S)
    assert child.num_starts() == 2


def test_it_logs_from_the_level_that_we_do(hold: Callable[..., Held]) -> None:
    root = logging.getLogger()
    before = root.level
    child = hold("fine", "fine")
    levels = child.starts.with_suffix(".level")

    def said() -> list[str]:
        return levels.read_text(encoding="utf-8").split() if levels.exists() else []

    try:
        root.setLevel(logging.DEBUG)
        until(lambda: said() == ["DEBUG"])
        os.kill(child.supervisor.pid, signal.SIGKILL)  # the next one begins at its usual level
        until(lambda: said() == ["DEBUG", "DEBUG"])
        root.setLevel(before)
        until(lambda: said() == ["DEBUG", "DEBUG", "INFO"])
    finally:
        root.setLevel(before)
