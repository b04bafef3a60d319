"""No sequence's tokens depend on its batch-mates: the scheduler is driven at random on a real
model, and whoever is not aborted gets what transformers' `generate` gives it alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictor.engine import EngineClient
from predictor.engine.runner import TorchRunner
from predictor.engine.scheduler import Scheduler
from predictor.engine.sequence import Sequence
from predictor.model.checkpoint.weights import load_model
from predictor.model.model import Model
from predictor.model.quantized import quantizer
from tests.engine.asking import OPTIONS, Known, pool
from tests.engine.conftest import StartEngine
from tests.model.checkpoints import EMBEDDED


@dataclass
class Drive:
    """Scheduler and runner stepped by hand, with everything that is in flight."""

    runner: TorchRunner
    scheduler: Scheduler
    expected: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sequences: dict[str, Sequence] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def add(self, known: Known) -> None:
        request = replace(
            known.request, request_id=f"{known.request.request_id}-{len(self.sequences)}"
        )
        self.sequences[request.request_id] = self.scheduler.add(request)
        self.expected[request.request_id] = known.tokens

    def step(self) -> bool:
        """False when there was nothing to do."""
        self.scheduler.release_aborted()
        step = self.scheduler.schedule()
        if step is None:
            return False
        run = self.runner.prefill if step.phase == "prefill" else self.runner.decode
        output = run(step.sequences)
        for sequence, tokens, logprobs in zip(
            step.sequences, output.tokens, output.logprobs, strict=True
        ):
            assert all(logprob <= 0 for logprob in logprobs)
            if sequence.extend(tokens, logprobs).finish is not None:
                self.ended.add(sequence.request.request_id)
                self.scheduler.finish(sequence)
        return True

    def check(self) -> None:
        """All that ended have exactly the expected tokens, all others a beginning of them."""
        for request_id, sequence in self.sequences.items():
            expected = self.expected[request_id]
            if request_id in self.ended:
                assert tuple(sequence.tokens) == expected, request_id
            else:
                assert tuple(sequence.tokens) == expected[: len(sequence.tokens)], request_id


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, len(pool()) - 1)),
        st.tuples(st.just("step"), st.integers(1, 12)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
    ),
    min_size=3,
    max_size=30,
)


IN_ANY_MIX = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,  # near-ties of random weights must not make a run fail by chance
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@IN_ANY_MIX
@given(actions=ACTIONS)
def test_tokens_stay_the_same_in_any_mix(
    actions: list[tuple[str, int]], known: list[Known], runner: TorchRunner
) -> None:
    run_through(actions, known, runner)


@IN_ANY_MIX
@given(actions=ACTIONS)
def test_tokens_stay_the_same_in_any_mix_in_int8(
    actions: list[tuple[str, int]], known_int8: list[Known], int8_runner: TorchRunner
) -> None:
    run_through(actions, known_int8, int8_runner)


def run_through(actions: list[tuple[str, int]], known: list[Known], runner: TorchRunner) -> None:
    drive = Drive(runner, Scheduler(OPTIONS, runner.limits, runner.num_slots, runner.page_size))
    for action, number in actions:
        if action == "add":
            drive.add(known[number])
        elif action == "step":
            for _ in range(number):
                drive.step()
        elif drive.sequences:
            names = list(drive.sequences)
            drive.scheduler.abort(names[number % len(names)])
    while drive.step():
        pass
    drive.check()
    stats = drive.scheduler.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_finished == len(drive.sequences)


@pytest.fixture(scope="module", params=["random", "tiny"])
def int8_model(request: pytest.FixtureRequest, native: Path, one_thread: None) -> Model:
    return load_model(
        native if request.param == "random" else EMBEDDED / "tiny",
        device="cpu",
        dtype=torch.float32,
        quantize_part=quantizer("int8", torch.device("cpu")),
    )


@pytest.fixture
def int8_runner(int8_model: Model) -> TorchRunner:
    return TorchRunner(int8_model, num_slots=OPTIONS.max_num_seqs, max_model_len=640)


@pytest.fixture(scope="module")
def known_int8(int8_model: Model) -> list[Known]:
    """The pool's requests with what each is answered alone, at the first place of the cache."""
    answers = []
    for request in pool():
        runner = TorchRunner(int8_model, num_slots=1, max_model_len=640)
        options = replace(OPTIONS, max_num_seqs=1)
        scheduler = Scheduler(options, runner.limits, 1, runner.page_size)
        drive = Drive(runner, scheduler)
        drive.add(Known(request, ()))
        while drive.step():
            pass
        [sequence] = drive.sequences.values()
        answers.append(Known(request, tuple(sequence.tokens)))
    return answers


async def test_the_engine_gives_the_tokens_of_generate_alone_and_together(
    any_checkpoint_known: list[Known], any_engine: EngineClient
) -> None:
    alone = [await tokens_of(any_engine, known) for known in any_checkpoint_known]
    assert alone == [known.tokens for known in any_checkpoint_known]
    streams = [any_engine.submit(known.request) for known in any_checkpoint_known]
    for stream, known in zip(streams, any_checkpoint_known, strict=True):
        tokens = [token async for chunk in stream for token in chunk.token_ids]
        assert tuple(tokens) == known.tokens


async def tokens_of(engine: EngineClient, known: Known) -> tuple[int, ...]:
    return tuple([t async for chunk in engine.submit(known.request) for t in chunk.token_ids])


async def test_small_prefill_budgets_change_nothing(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine
) -> None:
    options = replace(OPTIONS, max_prefill_audio_s=1.5, max_prefill_tokens=100)
    engine = start_engine(runner, options)
    streams = [engine.submit(k.request) for k in known]
    for stream, k in zip(streams, known, strict=True):
        assert tuple([t async for chunk in stream for t in chunk.token_ids]) == k.tokens
