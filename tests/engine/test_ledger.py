"""The server's books of the engine's process: they refuse no later than the engine would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from predictor.engine.link.ledger import Ledger
from predictor.engine.link.wire import Loaded
from predictor.engine.options import EngineOptions
from predictor.engine.sequence import Limits
from predictor.errors import InternalError, InvalidInput, Overloaded
from predictor.types import EngineRequest, TokenChunk
from tests.engine.conftest import OPTIONS

LOADED = Loaded(Limits(640, 1000, frozenset({1})), 4, "cpu", "float32")


class Nowhere:
    """A sink that nobody reads."""

    request_id = ""

    @property
    def outlet(self) -> Nowhere:
        return self

    def hand_over(self, deliveries: object) -> None:
        raise AssertionError("books hand nothing over")


def request(name: str, duration_s: float = 1.0) -> EngineRequest:
    samples = np.zeros(round(16_000 * duration_s), dtype=np.float32)
    return EngineRequest(name, samples, (2,), (3,), 10)


def ledger(options: EngineOptions = OPTIONS) -> Ledger:
    return Ledger(options, LOADED)


def test_a_request_waits_runs_and_ends() -> None:
    books, sink = ledger(), Nowhere()
    entry = books.add(request("a", 2.5), sink)
    stats = books.stats()
    assert (stats.num_waiting, stats.waiting_audio_s, stats.num_running) == (1, 2.5, 0)
    assert books.take(entry.number, TokenChunk((5,), (-0.1,))) is sink
    stats = books.stats()
    assert (stats.num_waiting, stats.num_running, stats.running_audio_s) == (0, 1, 2.5)
    assert books.take(entry.number, TokenChunk((), (), "stop", 9, 8)) is sink
    stats = books.stats()
    assert (stats.num_running, stats.running_audio_s, stats.num_finished) == (0, 0.0, 1)
    assert (stats.num_slots, stats.max_model_len) == (4, 640)


def test_what_comes_for_someone_who_left_is_nobodys() -> None:
    books = ledger()
    entry = books.add(request("a"), Nowhere())
    assert books.abort("a") is entry
    assert books.abort("a") is None
    assert books.take(entry.number, TokenChunk((5,), (-0.1,))) is None
    assert books.add(request("a"), Nowhere()).number != entry.number


def test_errors_count_as_failures() -> None:
    books = ledger()
    entry = books.add(request("a"), Nowhere())
    books.take(entry.number, InternalError("a"))
    books.add(request("b"), Nowhere())
    assert [dropped.sequence.request.request_id for dropped in books.drop_all()] == ["b"]
    stats = books.stats()
    assert (stats.num_failed, stats.num_finished, stats.num_waiting) == (2, 0, 0)


def test_the_queue_is_bounded_in_requests_and_in_seconds() -> None:
    books = ledger(replace(OPTIONS, max_waiting_requests=3, max_waiting_audio_s=10))
    first = books.add(request("long", 30), Nowhere())  # an empty queue takes any one clip
    with pytest.raises(Overloaded):
        books.add(request("a"), Nowhere())
    books.take(first.number, TokenChunk((5,), (-0.1,)))
    for name in "abc":
        books.add(request(name), Nowhere())
    with pytest.raises(Overloaded, match="3 requests with 3 s"):
        books.add(request("d"), Nowhere())
    books.abort("a")
    with pytest.raises(Overloaded):
        books.add(request("d", 8.5), Nowhere())
    books.add(request("d", 8), Nowhere())


def test_a_full_queue_says_when_to_come_back() -> None:
    books = ledger(replace(OPTIONS, max_waiting_requests=1))
    done = books.add(request("done", 20), Nowhere())
    books.add_step(2.0)
    books.take(done.number, TokenChunk((), (), "length", 3, 2))  # 10 s of audio a second
    books.add(request("a", 30), Nowhere())
    with pytest.raises(Overloaded) as error:
        books.add(request("b"), Nowhere())
    assert error.value.retry_after_s == 3


def test_one_id_is_in_flight_once() -> None:
    books = ledger()
    books.add(request("a"), Nowhere())
    with pytest.raises(InvalidInput) as error:
        books.add(request("a"), Nowhere())
    assert (error.value.field, error.value.value) == ("request_id", "a")
