"""The engine's promises to its callers: streams, aborts and bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
import torch

from predictor.engine import EngineClient, EngineCore
from predictor.engine.options import StepStats
from predictor.engine.runner import TorchRunner
from predictor.engine.stream import TokenStream
from predictor.errors import InvalidInput
from predictor.model.config import num_audio_tokens
from predictor.types import TokenChunk
from tests.engine.asking import (
    OPTIONS,
    Known,
    chunks_of,
    is_idle,
    reached,
    renamed,
    tokens_of,
    until,
)
from tests.engine.conftest import StartEngine
from tests.engine.faulty import FaultyRunner, Gate
from tests.model.checkpoints import AUDIO_PAD, features_of


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


def test_an_engine_starts_once(runner: TorchRunner, start_engine: StartEngine) -> None:
    engine = start_engine(runner)
    with pytest.raises(RuntimeError, match="started before"):
        engine.start()


def test_before_its_start_an_engine_is_not_alive_and_can_be_stopped(runner: TorchRunner) -> None:
    engine = EngineClient([EngineCore(runner, OPTIONS)])
    assert not engine.is_alive()
    engine.stop()
    assert not engine.is_alive()


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


async def test_the_engine_s_thread_stays_in_inference_mode(
    faulty: FaultyRunner, known: list[Known], start_engine: StartEngine
) -> None:
    modes: list[bool] = []
    faulty.before = lambda phase, ids: modes.append(torch.is_inference_mode_enabled())
    assert await tokens_of(start_engine(faulty).submit(known[0].request)) == known[0].tokens
    assert len(modes) > 1
    assert all(modes)
    assert not torch.is_inference_mode_enabled()


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
