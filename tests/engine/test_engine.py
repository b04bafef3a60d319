"""The engine's promises to its callers: streams, aborts, bounds, failures, shutdown."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from predictor.engine import EngineClient, EngineCore
from predictor.engine.options import StepStats
from predictor.engine.runner import TorchRunner
from predictor.engine.stream import TokenStream
from predictor.errors import InternalError, InvalidInput, NotReady
from predictor.model.attention import FP8
from predictor.model.config import num_audio_tokens
from predictor.model.model import Model
from predictor.types import EngineRequest, TokenChunk
from tests.engine.conftest import OPTIONS, Known, StartEngine
from tests.engine.faulty import FaultyRunner, Gate, Ids
from tests.model.checkpoints import AUDIO_PAD, features_of


@pytest.fixture
def faulty(runner: TorchRunner) -> FaultyRunner:
    return FaultyRunner(runner)


@pytest.fixture
def gate(faulty: FaultyRunner) -> Iterator[Gate]:
    """The engine stops inside its first decode step until the gate opens."""
    gate = Gate("decode")
    faulty.before = gate
    yield gate
    gate.open()


def renamed(known: Known, request_id: str) -> EngineRequest:
    return replace(known.request, request_id=request_id)


async def chunks_of(stream: TokenStream) -> list[TokenChunk]:
    return [chunk async for chunk in stream]


async def tokens_of(stream: TokenStream) -> tuple[int, ...]:
    return tuple([token async for chunk in stream for token in chunk.token_ids])


async def reached(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.reached.wait, 30)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds; the test's time limit ends it otherwise."""
    while not condition():
        await asyncio.sleep(0)


def is_idle(engine: EngineClient) -> bool:
    stats = engine.stats()
    return stats.num_running == stats.num_waiting == 0


async def test_the_last_chunk_says_how_it_ended_and_what_it_counted(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    chunks = await chunks_of(start_engine(faulty).submit(known[0].request))
    assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert last.finish in ("stop", "length")
    assert last.num_audio_tokens == 13
    assert last.num_prompt_tokens == 13 + 3 + 2
    assert all(len(c.token_ids) == len(c.logprobs) for c in chunks)
    assert all(logprob <= 0 for c in chunks for logprob in c.logprobs)


async def test_log_probabilities_are_those_of_the_whole_distribution(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine, reference: Any
) -> None:
    answer = known[2]
    chunks = await chunks_of(start_engine(runner).submit(answer.request))
    expected = reference_logprobs(reference, answer)
    ours = [logprob for chunk in chunks for logprob in chunk.logprobs]
    assert ours == pytest.approx(expected, abs=1e-4)


def reference_logprobs(reference: Any, known: Known) -> list[float]:
    """transformers' log-probabilities of the known tokens, from one pass over all of them."""
    request = known.request
    audio = [AUDIO_PAD] * num_audio_tokens(len(request.samples))
    prompt = [*request.tokens_before, *audio, *request.tokens_after]
    features, mask = features_of(request.samples)
    with torch.inference_mode():
        logits = reference(
            input_ids=torch.tensor([[*prompt, *known.tokens]]),
            input_features=features,
            input_features_mask=mask,
        ).logits[0]
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return [float(row[token]) for row, token in zip(logprobs, known.tokens, strict=True)]


async def test_chunks_that_pile_up_come_as_one(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    engine = start_engine(faulty)
    stream = engine.submit(known[0].request)
    await asyncio.to_thread(finished, engine)  # while the loop that owns the stream waits
    chunks = await chunks_of(stream)
    assert len(chunks) == 1
    assert chunks[0].token_ids == known[0].tokens


def finished(engine: EngineClient) -> None:
    while engine.stats().num_finished == 0:
        time.sleep(0.001)  # leaves the processor to it


async def test_requests_join_and_leave_between_steps(
    faulty: FaultyRunner, known: list[Known], gate: Gate, start_engine: StartEngine
) -> None:
    engine = start_engine(faulty)
    first = engine.submit(renamed(known[2], "first"))
    await reached(gate)
    second = engine.submit(renamed(known[7], "second"))
    gate.open()
    assert await tokens_of(first) == known[2].tokens
    assert await tokens_of(second) == known[7].tokens
    assert ("decode", ["first", "second"]) in faulty.steps
    assert faulty.steps[-1] == ("decode", ["first"])


async def test_more_requests_than_slots_wait_their_turn(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    engine = start_engine(faulty)
    streams = [engine.submit(renamed(known[7], f"s{i}")) for i in range(11)]
    assert [await tokens_of(s) for s in streams] == [known[7].tokens] * 11
    assert max(len(ids) for _, ids in faulty.steps) == OPTIONS.max_num_seqs
    order = [request_id for phase, ids in faulty.steps if phase == "prefill" for request_id in ids]
    assert order == [f"s{i}" for i in range(11)]


@pytest.mark.parametrize("how", ["aclose", "with", "cancel", "abort"])
async def test_leaving_frees_the_slot_and_the_rest_goes_on(
    faulty: FaultyRunner, known: list[Known], gate: Gate, start_engine: StartEngine, how: str
) -> None:
    engine = start_engine(faulty)
    leaver = engine.submit(renamed(known[4], "leaver"))
    stayer = engine.submit(renamed(known[2], "stayer"))
    await anext(leaver)
    await reached(gate)
    await leave(engine, leaver, how)
    gate.open()
    assert await tokens_of(stayer) == known[2].tokens
    await until(lambda: is_idle(engine))
    rest = await chunks_of(leaver)
    assert [chunk.finish for chunk in rest] == (["abort"] if how == "abort" else [])
    assert sum("leaver" in ids for phase, ids in faulty.steps if phase == "decode") <= 1
    assert engine.stats().num_finished == 2


async def leave(engine: EngineClient, stream: TokenStream, how: str) -> None:
    if how == "aclose":
        await stream.aclose()
        await stream.aclose()
    elif how == "with":
        async with stream:
            pass
    elif how == "abort":
        engine.abort(stream.request_id)
    else:
        waiting = asyncio.create_task(anext_of(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def anext_of(stream: TokenStream) -> Coroutine[Any, Any, TokenChunk]:
    async def take() -> TokenChunk:
        return await anext(stream)

    return take()


async def test_aborting_a_waiting_request_or_an_unknown_one(
    faulty: FaultyRunner, known: list[Known], gate: Gate, start_engine: StartEngine
) -> None:
    engine = start_engine(faulty, replace(OPTIONS, max_num_seqs=1))
    running = [engine.submit(renamed(known[7], f"r{i}")) for i in range(faulty.num_slots)]
    await reached(gate)
    waiting = engine.submit(renamed(known[7], "waiting"))
    num_waiting = engine.stats().num_waiting
    assert num_waiting >= 1
    engine.abort("waiting")
    engine.abort("never seen")
    assert engine.stats().num_waiting == num_waiting - 1
    assert [chunk.finish for chunk in await chunks_of(waiting)] == ["abort"]
    gate.open()
    for stream in running:
        assert await tokens_of(stream) == known[7].tokens
    assert all("waiting" not in ids for _, ids in faulty.steps)


async def test_what_never_fits_is_refused(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    engine = start_engine(faulty)
    with pytest.raises(InvalidInput) as error:
        await tokens_of(engine.submit(replace(known[0].request, tokens_before=(1,) * 640)))
    assert (error.value.field, error.value.value, error.value.limit) == ("audio", 655, 639)
    assert engine.stats().num_waiting == 0


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
    runner._cache.data.fill_(float("nan"))
    runner.scrub(range(runner.page_size.count))
    engine = start_engine(runner)
    streams = [engine.submit(known[i].request) for i in (2, 4, 7)]
    assert [await tokens_of(s) for s in streams] == [known[i].tokens for i in (2, 4, 7)]


def test_a_page_of_an_8_bit_cache_is_scrubbed_too(model: Model) -> None:
    runner = TorchRunner(model, num_slots=3, max_model_len=20, kv_dtype=FP8)
    runner._cache.data.fill_(float("nan"))
    runner.scrub([0, 2])
    numbers = runner._cache.data.float()
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


def test_an_engine_starts_once(runner: TorchRunner, start_engine: StartEngine) -> None:
    engine = start_engine(runner)
    with pytest.raises(RuntimeError, match="started before"):
        engine.start()


def test_before_its_start_an_engine_is_not_alive_and_can_be_stopped(runner: TorchRunner) -> None:
    engine = EngineClient([EngineCore(runner, OPTIONS)])
    assert not engine.is_alive()
    engine.stop()
    assert not engine.is_alive()


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


async def test_the_observer_sees_every_step(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    seen: list[StepStats] = []
    engine = start_engine(faulty, on_step=seen.append)
    chunks = await chunks_of(engine.submit(known[0].request))
    await asyncio.to_thread(engine.stop)
    assert [step.phase for step in seen] == [phase for phase, _ in faulty.steps]
    prefill = seen[0]
    assert (prefill.num_seqs, prefill.num_prompt_tokens, prefill.audio_s) == (1, 18, 1.0)
    assert sum(step.num_new_tokens for step in seen) >= sum(len(c.token_ids) for c in chunks)
    assert all(step.seconds > 0 for step in seen)
    assert seen[-1].num_running == 0


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


async def test_two_event_loops_share_one_engine(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine
) -> None:
    engine = start_engine(runner)

    async def ask(index: int) -> tuple[int, ...]:
        return await tokens_of(engine.submit(known[index].request))

    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(ask(2))))
    assert await ask(4) == known[4].tokens
    assert await other == known[2].tokens


async def test_what_is_not_streamed_comes_at_the_start_and_at_the_end(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    long = known[4]
    streams = [
        engine.submit(replace(long.request, request_id=str(i), is_streamed=False)) for i in range(3)
    ]
    for stream in streams:
        chunks = await chunks_of(stream)
        assert len(chunks) <= 2
        assert tuple(t for chunk in chunks for t in chunk.token_ids) == long.tokens
        assert len([lp for chunk in chunks for lp in chunk.logprobs]) == len(long.tokens)


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
