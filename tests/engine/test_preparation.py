"""Preparing at rest holds up nobody who asks one after another, and is not put off for ever."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from predictor.engine import preparation
from predictor.engine.preparation import MAX_PAUSE_S, REST_S, Preparation
from tests.engine.asking import OPTIONS, Known, renamed, tokens_of, until
from tests.engine.conftest import StartEngine
from tests.engine.faulty import FaultyRunner

AGES_S = 1e6


@dataclass
class Pieces(FaultyRunner):
    """Has so many pieces to prepare, and notes what it was asked for."""

    left: int = 3
    failing: bool = False
    holding: bool = False
    asked: list[str] = field(default_factory=list)

    def let_go(self) -> None:
        self.asked.append("let go")
        if self.holding:
            raise RuntimeError("not now")
        super().let_go()

    def idle(self) -> bool:
        self.asked.append("idle")
        if self.failing:
            raise RuntimeError("no graph today")
        self.left -= 1
        return self.left > 0


@pytest.fixture
def pieces(faulty: FaultyRunner) -> Pieces:
    return Pieces(faulty.inner)


@pytest.fixture
def for_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No core is ever at rest for long enough."""
    monkeypatch.setattr(preparation, "REST_S", AGES_S)
    monkeypatch.setattr(preparation, "MAX_PAUSE_S", AGES_S)


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_piece_is_due_after_a_rest_and_the_others_at_once(pieces: Pieces) -> None:
    clock = Clock()
    ours = Preparation(pieces, clock)
    assert ours.due_in_s() == REST_S
    clock.now_s += REST_S
    for _ in range(3):
        assert ours.due_in_s() == 0
        assert not ours.is_done
        ours.go_on()
        clock.now_s += 0.1
    assert ours.due_in_s() is None
    assert ours.is_done
    assert pieces.asked == ["idle"] * 3


def test_after_a_step_the_runner_lets_go_at_once_and_the_rest_begins_anew(pieces: Pieces) -> None:
    clock = Clock()
    ours = Preparation(pieces, clock)
    clock.now_s += REST_S
    ours.go_on()
    ours.interrupt()
    clock.now_s += 1.0
    assert ours.due_in_s() == 0
    ours.go_on()
    assert pieces.asked == ["idle", "let go"]
    assert ours.due_in_s() == REST_S
    clock.now_s += REST_S / 2
    assert ours.due_in_s() == REST_S / 2


def test_a_core_that_never_rests_for_long_prepares_now_and_then(pieces: Pieces) -> None:
    """As with one live session, which has a step every so often."""
    clock = Clock()
    ours = Preparation(pieces, clock)
    prepared_s = [clock.now_s]
    while not ours.is_done and clock.now_s < 1000.0:
        ours.interrupt()
        assert ours.due_in_s() == 0
        ours.go_on()
        clock.now_s += REST_S / 2
        if ours.due_in_s() == 0:
            ours.go_on()
            prepared_s.append(clock.now_s)
    assert pieces.asked.count("idle") == 3
    for one_s, next_s in pairwise(prepared_s):
        assert MAX_PAUSE_S <= next_s - one_s <= MAX_PAUSE_S + REST_S


def test_what_fails_is_tried_again_after_the_next_step(pieces: Pieces) -> None:
    clock = Clock()
    ours = Preparation(pieces, clock)
    pieces.failing = True
    clock.now_s += REST_S
    ours.go_on()
    assert ours.due_in_s() is None
    ours.interrupt()
    ours.go_on()
    assert ours.due_in_s() == REST_S


def test_what_cannot_be_let_go_of_holds_up_no_piece(pieces: Pieces) -> None:
    clock = Clock()
    ours = Preparation(pieces, clock)
    pieces.holding = True
    ours.interrupt()
    ours.go_on()
    assert ours.due_in_s() == REST_S
    assert not ours.is_done
    clock.now_s += REST_S
    ours.go_on()
    assert pieces.asked == ["let go", "idle"]


async def test_requests_one_after_another_are_not_held_up(
    pieces: Pieces, known: list[Known], start_engine: StartEngine, for_ages: None
) -> None:
    """What has ended is let go of between them, though."""
    engine = start_engine(pieces)
    for index in range(3):
        assert await tokens_of(engine.submit(renamed(known[7], f"r{index}"))) == known[7].tokens
        await until(lambda n=index + 1: len(pieces.asked) == n)  # type: ignore[misc]
    assert pieces.asked == ["let go"] * 3
    assert engine.stats().num_unprepared == 1


async def test_waiting_for_a_rest_does_not_look_like_hanging(
    pieces: Pieces, known: list[Known], start_engine: StartEngine, for_ages: None
) -> None:
    engine = start_engine(pieces, replace(OPTIONS, stall_timeout_s=1e-9))
    assert await tokens_of(engine.submit(known[7].request)) == known[7].tokens
    await until(engine.is_alive)


async def test_an_engine_stops_while_it_waits_for_a_rest(
    pieces: Pieces, known: list[Known], start_engine: StartEngine, for_ages: None
) -> None:
    engine = start_engine(pieces)
    assert await tokens_of(engine.submit(known[7].request)) == known[7].tokens
    await until(lambda: pieces.asked == ["let go"])
    [thread] = [t for t in threading.enumerate() if t.name == "engine"]
    engine.stop()
    assert not thread.is_alive()


async def test_an_engine_says_when_nothing_is_left_to_prepare(
    pieces: Pieces, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "REST_S", 0.0)
    engine = start_engine(pieces)
    await until(lambda: engine.stats().num_unprepared == 0)
    assert pieces.asked == ["idle"] * 3
