"""What callers see when steps fail or hang, a device is beyond use, or an engine stops."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from predictor.engine import preparation
from predictor.engine.options import StepStats
from predictor.engine.runner import TorchRunner
from predictor.errors import InternalError, NotReady
from predictor.model.attention import FP8
from predictor.model.model import Model
from tests.engine.asking import OPTIONS, Known, is_idle, reached, renamed, tokens_of, until
from tests.engine.conftest import StartEngine
from tests.engine.faulty import FaultyRunner, Gate, Ids


async def test_a_failing_decode_fails_its_sequences_and_no_others(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    def fail(phase: str, ids: Ids) -> None:
        if phase == "decode" and "bad" in ids:
            raise RuntimeError("the device said no")

    faulty.before = fail
    engine = start_engine(faulty)
    with pytest.raises(InternalError) as error:
        await tokens_of(engine.submit(renamed(known[2], "bad")))
    assert error.value.request_id == "bad"
    assert await tokens_of(engine.submit(renamed(known[2], "good"))) == known[2].tokens
    assert engine.is_alive()
    assert (engine.stats().num_failed, engine.stats().num_finished) == (1, 1)


async def test_one_request_that_spoils_a_prefill_does_not_spoil_it_for_the_rest(
    faulty: FaultyRunner, known: list[Known], gate: Gate, start_engine: StartEngine
) -> None:
    def fail(phase: str, ids: Ids) -> None:
        gate(phase, ids)
        if phase == "prefill" and "bad" in ids:
            raise RuntimeError("this one cannot be prefilled")

    faulty.before = fail
    engine = start_engine(faulty)
    first = engine.submit(renamed(known[2], "first"))
    await reached(gate)
    streams = [engine.submit(renamed(known[7], name)) for name in ("one", "bad", "two")]
    gate.open()
    results = await asyncio.gather(*map(tokens_of, streams), return_exceptions=True)
    assert isinstance(results[1], InternalError)
    assert [results[0], results[2]] == [known[7].tokens] * 2
    assert await tokens_of(first) == known[2].tokens
    assert ("prefill", ["one", "bad", "two"]) in faulty.steps


async def test_a_device_beyond_use_ends_the_engine_and_everyone_hears_of_it(
    faulty: FaultyRunner, known: list[Known], gate: Gate, start_engine: StartEngine
) -> None:
    def fail(phase: str, ids: Ids) -> None:
        gate(phase, ids)
        if phase == "decode":
            raise RuntimeError("an illegal memory access was encountered")

    faulty.before = fail
    faulty.recovers = False
    engine = start_engine(faulty)
    running = engine.submit(renamed(known[2], "running"))
    await reached(gate)
    waiting = engine.submit(renamed(known[2], "waiting"))
    assert engine.is_alive()
    gate.open()
    for stream in (running, waiting):
        with pytest.raises(InternalError):
            await tokens_of(stream)
    assert not engine.is_alive()
    with pytest.raises(NotReady):
        engine.submit(known[0].request)


async def test_probabilities_that_are_no_numbers_fail_only_their_sequence(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    faulty.broken = {"bad"}
    engine = start_engine(faulty)
    streams = [engine.submit(renamed(known[7], name)) for name in ("good", "bad")]
    results = await asyncio.gather(*map(tokens_of, streams), return_exceptions=True)
    assert results[0] == known[7].tokens
    assert isinstance(results[1], InternalError)
    assert faulty.scrubbed


async def test_a_scrubbed_page_is_as_good_as_new(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine
) -> None:
    runner.cache.data.fill_(float("nan"))
    runner.scrub(range(runner.page_size.count))
    engine = start_engine(runner)
    streams = [engine.submit(known[i].request) for i in (2, 4, 7)]
    assert [await tokens_of(s) for s in streams] == [known[i].tokens for i in (2, 4, 7)]


def test_a_page_of_an_8_bit_cache_is_scrubbed_too(model: Model) -> None:
    runner = TorchRunner(model, num_slots=3, max_model_len=20, kv_dtype=FP8)
    runner.cache.data.fill_(float("nan"))
    runner.scrub([0, 2])
    numbers = runner.cache.data.float()
    assert numbers[:, :, 1].isnan().all()
    assert not numbers[:, :, ::2].any()


async def test_a_hanging_step_shows(
    faulty: FaultyRunner, known: list[Known], gate: Gate, start_engine: StartEngine
) -> None:
    engine = start_engine(faulty, replace(OPTIONS, stall_timeout_s=0.02))
    assert engine.is_alive()
    stream = engine.submit(known[7].request)
    await reached(gate)
    await until(lambda: not engine.is_alive())
    gate.open()
    assert await tokens_of(stream) == known[7].tokens
    await until(lambda: is_idle(engine))
    await until(engine.is_alive)


async def test_stopping_ends_streams_in_flight(
    faulty: FaultyRunner, known: list[Known], gate: Gate, start_engine: StartEngine
) -> None:
    engine = start_engine(faulty)
    streams = [engine.submit(renamed(known[4], f"s{i}")) for i in range(6)]
    await reached(gate)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    gate.open()
    for stream in streams:
        with pytest.raises(NotReady):
            await tokens_of(stream)
    await asyncio.to_thread(stopping.join)
    assert not engine.is_alive()
    assert engine.stats().num_running == 0
    with pytest.raises(NotReady):
        engine.submit(known[0].request)


async def test_stopping_does_not_wait_for_ever_for_a_hanging_step(
    faulty: FaultyRunner, known: list[Known], gate: Gate, start_engine: StartEngine
) -> None:
    engine = start_engine(faulty)
    stream = engine.submit(known[4].request)
    await reached(gate)
    engine.stop(timeout_s=0.01)
    with pytest.raises(NotReady):
        await tokens_of(stream)
    gate.open()


def test_a_listener_whose_loop_is_gone_is_dropped(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    gate = Gate("decode")
    faulty.before = gate
    engine = start_engine(faulty)

    async def submit_and_leave() -> None:
        engine.submit(known[4].request)
        await reached(gate)

    asyncio.run(submit_and_leave())
    gate.open()
    asyncio.run(until(lambda: is_idle(engine)))
    assert engine.is_alive()


async def test_a_failing_observer_harms_nobody(
    runner: TorchRunner,
    known: list[Known],
    start_engine: StartEngine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(stats: StepStats) -> None:
        raise ValueError("no such bucket")

    engine = start_engine(runner, on_step=fail)
    assert await tokens_of(engine.submit(known[7].request)) == known[7].tokens
    assert "observer failed" in caplog.text
    assert engine.is_alive()


async def test_a_device_that_hangs_while_it_prepares_shows(
    faulty: FaultyRunner, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that hangs in a step."""
    hangs, goes_on = threading.Event(), threading.Event()

    def idle() -> bool:
        hangs.set()
        assert goes_on.wait(30)
        return False

    monkeypatch.setattr(faulty, "idle", idle)
    monkeypatch.setattr(preparation, "REST_S", 0.0)
    engine = start_engine(faulty, replace(OPTIONS, stall_timeout_s=0.02))
    assert hangs.wait(30)
    while engine.is_alive():
        await asyncio.sleep(0.005)
    goes_on.set()
    while not engine.is_alive():
        await asyncio.sleep(0.005)


async def test_a_runner_prepares_between_steps_too(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What fails there fails nobody."""
    calls: list[int] = []

    def between_steps() -> None:
        calls.append(len(faulty.steps))
        raise RuntimeError("no graph today")

    monkeypatch.setattr(faulty, "between_steps", between_steps)
    engine = start_engine(faulty)
    assert await tokens_of(engine.submit(known[7].request)) == known[7].tokens
    assert calls[0] >= 1
