"""Prefills beside decode steps on a CUDA device, in float32: tokens equal the plain runner's.

The embedded model is small and its prefills are short, so each is held up on the device: whatever
must wait for it, and does not, reads or writes too early.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from predictor.engine import EngineClient, EngineCore
from predictor.engine.cuda.pending import PendingPrefill
from predictor.engine.cuda.prefills import Prefills
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.runner import TorchRunner
from predictor.engine.sequence import Batch, Sequence
from predictor.model.checkpoint.weights import load_model
from predictor.model.model import Model
from predictor.types import EngineRequest
from tests.gpu.test_graphs import MAX_MODEL_LEN, NUM_SLOTS, OPTIONS, TINY, requests

pytestmark = pytest.mark.gpu

HELD_UP_CYCLES = 100_000_000  # about 50 ms: longer than it takes to start a prefill


@pytest.fixture(scope="module")
def in_float32() -> Model:
    torch.backends.cudnn.allow_tf32 = False
    return load_model(TINY, device="cuda", dtype=torch.float32)


@pytest.fixture(scope="module")
def expected(in_float32: Model) -> list[list[int]]:
    plain = TorchRunner(in_float32, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN)
    return asyncio.run(answers(plain, requests(), leaves=lambda _: False))


@pytest.fixture(scope="module")
def compiled(in_float32: Model) -> None:
    """The kernels of prefills: who waits for a compiler starts no step beside one."""
    asyncio.run(answers(fast(in_float32), requests(), leaves=lambda _: False))


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each prefill begins late; how many decode steps were started beside one."""
    begin, beside = Prefills.start, []
    start_steps = GraphRunner._start

    def late(self: Prefills, sequences: Batch) -> PendingPrefill:
        if self._stream is not None:
            with self._behind_all_steps():
                torch.cuda._sleep(HELD_UP_CYCLES)
        return begin(self, sequences)

    def counted(self: GraphRunner, sequences: tuple[Sequence, ...]) -> None:
        if any(not prefill.timer.is_done for prefill in self._prefills.under_way):
            beside.append(len(sequences))
        start_steps(self, sequences)

    monkeypatch.setattr(Prefills, "start", late)
    monkeypatch.setattr(GraphRunner, "_start", counted)
    return beside


async def answers(runner: TorchRunner, asked: list[EngineRequest], leaves: Any) -> list[list[int]]:
    """All at once; a client for whose index `leaves` is true goes after its first tokens, and asks
    again at once."""
    engine = EngineClient([EngineCore(runner, OPTIONS)])
    engine.start()

    async def one(index: int, request: EngineRequest) -> list[int]:
        if leaves(index):
            early = engine.submit(replace(request, request_id=f"early {index}"))
            task = asyncio.ensure_future(anext(early))
            await asyncio.sleep(0.002 * (index % 9))
            if not task.done():
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await early.aclose()
        return [t async for chunk in engine.submit(request) for t in chunk.token_ids]

    try:
        return await asyncio.gather(*(one(i, r) for i, r in enumerate(asked)))
    finally:
        engine.stop()


def fast(model: Model, **sizes: int) -> GraphRunner:
    runner = GraphRunner(
        model, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN,
        options=GraphOptions(steps=((1, 2),), overlap_from=1, check_kernels=False), **sizes,
    )  # fmt: skip
    runner.capture_up_to(NUM_SLOTS)
    return runner


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("num_pages", [None, 15, 40])
@pytest.mark.parametrize("seed", range(2))
def test_tokens_are_those_of_the_plain_runner(
    in_float32: Model,
    expected: list[list[int]],
    held_up: list[int],
    num_pages: int | None,
    seed: int,
) -> None:
    """Clients leave while their prefill is under way, and sequences give up their pages."""
    chance = random.Random(seed)
    leaving = {i for i in range(len(expected)) if chance.random() < 0.5}
    sizes = {} if num_pages is None else {"num_pages": num_pages}
    runner = fast(in_float32, **sizes)
    ours = asyncio.run(answers(runner, requests(), leaves=leaving.__contains__))
    assert ours == expected
    assert num_pages == 15 or sum(held_up) > 0


def test_one_after_the_other_gives_the_same(in_float32: Model, expected: list[list[int]]) -> None:
    options = GraphOptions(steps=((1, 2),), check_kernels=False)
    runner = GraphRunner(
        in_float32, num_slots=NUM_SLOTS, max_model_len=MAX_MODEL_LEN, options=options
    )
    ours = asyncio.run(answers(runner, requests(), leaves=lambda _: False))
    assert runner.num_prefills_beside is None
    assert ours == expected
