"""Prefills beside decode steps: whatever ends when, every answer is transformers' own.

On a CPU a prefill has ended when it was started; when the host hears of it is made up here. What a
device does at the same time is tests/gpu/test_overlap.py's.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from predictor.engine.cuda.pending import StepTimer
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.pages import pages_of_slot
from predictor.engine.sequence import Sequence
from predictor.model.cuda.decoder import PLAIN
from predictor.model.model import Model
from tests.engine.asking import OPTIONS, Known
from tests.engine.conftest import StartEngine
from tests.engine.test_graph_runner import arrive_and_leave, collect


class Watched(GraphRunner):
    """Counts the decode steps that were started while a prefill was under way beside."""

    num_beside = 0

    def _start(self, sequences: tuple[Sequence, ...]) -> None:
        entering = {s for prefill in self._prefills.under_way for s in prefill.members}
        assert entering.isdisjoint(sequences)
        self.num_beside += bool(entering)
        super()._start(sequences)


def watched(model: Model, overlap_from: int | None = 1) -> Watched:
    return Watched(
        model,
        num_slots=OPTIONS.max_num_seqs,
        max_model_len=OPTIONS.max_model_len,
        options=GraphOptions(
            buckets=(1, 2),
            steps=((1, 2),),
            overlap_from=overlap_from,
            fusion=PLAIN,
            check_kernels=False,
        ),
    )


def sequences(runner: GraphRunner, known: list[Known]) -> list[Sequence]:
    made = []
    for slot, item in enumerate(known):
        sequence = Sequence(item.request, runner.limits, OPTIONS)
        sequence.slot = slot
        sequence.pages = pages_of_slot(slot, OPTIONS.max_model_len, runner.page_size)
        made.append(sequence)
    return made


@pytest.mark.parametrize("seed", range(4))
async def test_tokens_do_not_depend_on_when_a_prefill_ends(
    model: Model,
    known: list[Known],
    start_engine: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(StepTimer, "is_done", property(lambda _: chance.random() < 0.2))
    runner = watched(model)
    engine = start_engine(runner)
    await arrive_and_leave(engine, known, seed)
    answers = await asyncio.gather(*(collect(engine.submit(k.request)) for k in known))
    assert [tuple(answer) for answer in answers] == [k.tokens for k in known]
    assert runner.num_beside > 0


@pytest.mark.parametrize("overlap_from", [None, OPTIONS.max_num_seqs + 1])
async def test_where_few_decode_nothing_runs_beside(
    model: Model, known: list[Known], start_engine: StartEngine, overlap_from: int | None
) -> None:
    runner = watched(model, overlap_from)
    engine = start_engine(runner)
    answers = await asyncio.gather(*(collect(engine.submit(k.request)) for k in known))
    assert [tuple(answer) for answer in answers] == [k.tokens for k in known]
    assert runner.num_beside == 0
    assert runner.num_prefills_beside is None


def test_steps_wait_for_a_prefill_whose_pages_are_free_again(
    model: Model, known: list[Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may get the pages of a sequence that leaves before its prefill has ended."""
    runner = watched(model)
    stays, leaves, other = sequences(runner, known[:3])
    runner.prefill([stays])
    while not stays.tokens:
        stays.tokens += runner.decode([stays]).tokens[0]
    monkeypatch.setattr(StepTimer, "is_done", False)
    held_back = []
    monkeypatch.setattr(StepTimer, "hold_back", lambda self: held_back.append(self))
    runner.prefill([leaves])
    runner.prefill([other])
    runner.decode([stays, leaves, other])
    assert runner.num_prefills_beside == 2
    assert held_back == []
    leaves.slot = -1
    runner.decode([stays, other])
    assert runner.num_prefills_beside == 1
    assert len(held_back) == 1
    other.num_preempted += 1
    runner.decode([stays])
    assert runner.num_prefills_beside == 0


def test_where_nobody_else_decodes_steps_follow_the_oldest_prefill(
    model: Model, known: list[Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepTimer, "is_done", False)
    runner = watched(model)
    first, second, left = sequences(runner, known[:3])
    runner.prefill([left])
    runner.decode([left])  # somebody decoded until just now
    runner.prefill([first])
    runner.prefill([second])
    output = runner.decode([first, second])
    assert output.tokens[0]
    assert output.tokens[1] == []
    assert runner.num_prefills_beside == 1
