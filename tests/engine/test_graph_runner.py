"""The run-ahead decode loop gives every sequence the tokens it gets alone; no graphs on a CPU."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from predictor.engine import EngineClient
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.pages import pages_of_slot
from predictor.engine.runner import TorchRunner
from predictor.engine.sequence import Sequence
from predictor.engine.stream import TokenStream
from predictor.model.attention import FP8
from predictor.model.cuda.decoder import PLAIN
from predictor.model.model import Model
from tests.engine.asking import OPTIONS, Known
from tests.engine.conftest import StartEngine

ROOT = Path(__file__).parents[2]
STEPS = {
    "one step a look": ((1, 1),),
    "three steps a look": ((1, 3),),
    "more steps for more sequences": ((1, 1), (2, 2), (4, 5)),
}


def graph_runner(model: Model, steps: tuple[tuple[int, int], ...], run_ahead: bool) -> GraphRunner:
    return GraphRunner(
        model,
        num_slots=OPTIONS.max_num_seqs,
        max_model_len=OPTIONS.max_model_len,
        options=GraphOptions(
            buckets=(1, 2), steps=steps, run_ahead=run_ahead, fusion=PLAIN, check_kernels=False
        ),
    )


async def collect(stream: TokenStream) -> list[int]:
    return [token async for chunk in stream for token in chunk.token_ids]


@pytest.mark.parametrize("run_ahead", [True, False])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
async def test_tokens_do_not_depend_on_company(
    model: Model,
    known: list[Known],
    start_engine: StartEngine,
    steps: tuple[tuple[int, int], ...],
    run_ahead: bool,
) -> None:
    engine = start_engine(graph_runner(model, steps, run_ahead))
    answers = await asyncio.gather(*(collect(engine.submit(k.request)) for k in known))
    for answer, expected in zip(answers, known, strict=True):
        assert tuple(answer) == expected.tokens


async def test_both_runners_give_the_same_tokens_with_an_8_bit_cache(
    model: Model, known: list[Known], start_engine: StartEngine
) -> None:
    """More sequences than slots; and no token where a sequence's slot held another's before."""
    sizes = {"num_slots": 2, "max_model_len": OPTIONS.max_model_len}
    options = GraphOptions(buckets=(1,), fusion=PLAIN, check_kernels=False)
    runners = (
        GraphRunner(model, **sizes, options=options, kv_dtype=FP8),
        TorchRunner(model, **sizes, kv_dtype=FP8),
    )
    answers = []
    for runner in runners:
        assert runner.cache.data.dtype == FP8
        engine = start_engine(runner, replace(OPTIONS, max_num_seqs=2))
        answers.append(await asyncio.gather(*(collect(engine.submit(k.request)) for k in known)))
        assert await collect(engine.submit(known[0].request)) == answers[0][0]
    assert answers[0] == answers[1]
    assert answers[0] != [list(k.tokens) for k in known]  # of a cache that is not rounded


async def arrive_and_leave(engine: EngineClient, known: list[Known], seed: int) -> None:
    """Requests come one by one; some are dropped after a few tokens, which frees their slot."""
    chance = random.Random(seed)

    async def one(item: Known) -> None:
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        request = replace(item.request, request_id=f"{seed} {item.request.request_id}")
        stream = engine.submit(request)
        leaves_after = chance.choice([1, 3, 10**6])
        got: list[int] = []
        async for chunk in stream:
            got += chunk.token_ids
            if len(got) >= leaves_after and chunk.finish is None:
                await stream.aclose()
        if leaves_after == 10**6:
            assert tuple(got) == item.tokens
        else:
            assert item.tokens[: len(got)] == tuple(got)

    await asyncio.gather(*(one(item) for item in known))


@pytest.mark.parametrize("seed", range(4))
async def test_slots_change_hands_while_a_look_is_under_way(
    model: Model, known: list[Known], start_engine: StartEngine, seed: int
) -> None:
    runner = graph_runner(model, STEPS["more steps for more sequences"], run_ahead=True)
    engine = start_engine(runner)
    await arrive_and_leave(engine, known, seed)
    await arrive_and_leave(engine, known, seed + 100)


@pytest.mark.parametrize("seed", range(6))
def test_any_selection_in_any_order_goes_on_where_it_was(
    model: Model, known: list[Known], seed: int
) -> None:
    """Driven at random without the engine: who decodes, who enters which slot, what is lost."""
    chance = random.Random(seed)
    runner = graph_runner(model, ((1, chance.choice([1, 2])),), run_ahead=chance.random() < 0.7)
    free = list(range(OPTIONS.max_num_seqs))
    waiting = [Sequence(k.request, runner.limits, OPTIONS) for k in known]
    expected = dict(zip(waiting, (k.tokens for k in known), strict=True))
    running: list[Sequence] = []
    while waiting or running:
        if waiting and free and (not running or chance.random() < 0.3):
            batch = [waiting.pop() for _ in range(min(len(waiting), chance.randint(1, len(free))))]
            for sequence in batch:
                slot = free.pop(chance.randrange(len(free)))
                pages = pages_of_slot(slot, OPTIONS.max_model_len, runner.page_size)
                sequence.slot, sequence.pages = slot, pages
            output, running = runner.prefill(batch), running + batch
        else:
            batch = chance.sample(running, chance.randint(1, len(running)))
            output = runner.decode(batch)
            assert any(output.tokens)
        if chance.random() < 0.05:
            assert runner.recover()
        for sequence, tokens, logprobs in zip(batch, output.tokens, output.logprobs, strict=True):
            assert len(tokens) == len(logprobs)
            if sequence.extend(tokens, logprobs).finish is not None:
                assert tuple(sequence.tokens) == expected[sequence]
                free.append(sequence.slot)
                running.remove(sequence)
                sequence.slot = -1


async def test_steps_too_many_stay_in_their_own_slot(
    model: Model, known: list[Known], start_engine: StartEngine
) -> None:
    """The first sequence fills its slot to the last place and runs on; the next slot is in use."""
    first, second = known[7], known[0]
    assert len(first.tokens) < len(second.tokens)
    prompt = len(first.request.tokens_before) + len(first.request.tokens_after) + 13
    length = prompt + first.request.max_new_tokens
    runner = GraphRunner(
        model,
        num_slots=2,
        max_model_len=length,
        options=GraphOptions(steps=((1, 4),), fusion=PLAIN, check_kernels=False),
    )
    engine = start_engine(runner, replace(OPTIONS, max_num_seqs=2, max_model_len=length))
    streams = [engine.submit(item.request) for item in (first, second)]
    answers = await asyncio.gather(*(collect(stream) for stream in streams))
    assert [tuple(answer) for answer in answers] == [first.tokens, second.tokens]


async def test_a_failed_step_costs_only_its_own_sequences(
    model: Model, known: list[Known], start_engine: StartEngine
) -> None:
    """A prefill that fails drops the looks under way; the others go on from their own tokens."""

    class Spoilt(GraphRunner):
        failures = 0

        def prefill(self, sequences):  # type: ignore[no-untyped-def]
            if len(sequences) > 1 and self.failures < 3:
                self.failures += 1
                raise RuntimeError("a batch too many")
            return super().prefill(sequences)

    runner = Spoilt(
        model,
        num_slots=OPTIONS.max_num_seqs,
        max_model_len=OPTIONS.max_model_len,
        options=GraphOptions(steps=((1, 2),), fusion=PLAIN, check_kernels=False),
    )
    engine = start_engine(runner)
    answers = await asyncio.gather(*(collect(engine.submit(k.request)) for k in known))
    assert runner.failures
    for answer, expected in zip(answers, known, strict=True):
        assert tuple(answer) == expected.tokens


async def test_samples_are_let_go_of_once_nobody_asks(
    model: Model, known: list[Known], start_engine: StartEngine
) -> None:
    """The last look runs on for sequences that have ended; an idle engine must not keep them."""
    engine = start_engine(graph_runner(model, ((1, 3),), run_ahead=True))
    samples = known[0].request.samples.copy()
    gone = weakref.ref(samples)
    stream = engine.submit(replace(known[0].request, samples=samples))
    del samples
    assert tuple(await collect(stream)) == known[0].tokens
    del stream
    while gone() is not None:
        gc.collect()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("more", [(), pytest.param(("--whole",), marks=pytest.mark.soak)])
def test_kernels_equal_their_plain_twins(more: tuple[str, ...]) -> None:
    """In Triton's interpreter, which must be chosen before Triton is imported."""
    command = [sys.executable, "-m", "tests.engine.kernel_parity", *more]
    subprocess.run(command, cwd=ROOT, check=True, timeout=3000 if more else 800)
