"""Engines on random checkpoints, and the tokens that transformers gives for a pool of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from predictor.engine import EngineClient, EngineCore, build_engine
from predictor.engine.options import EngineOptions, StepStats
from predictor.engine.protocol import Runner
from predictor.engine.runner import TorchRunner
from predictor.model.checkpoint.weights import load_model
from predictor.model.config import num_audio_tokens
from predictor.model.model import Model
from tests.engine.asking import OPTIONS, Known, pool
from tests.engine.faulty import FaultyRunner, Gate
from tests.engine.own_process import Started, StartProcess, spec
from tests.model.checkpoints import (
    EMBEDDED,
    SHAPES,
    embedded_names,
    reference_of,
    reference_tokens,
    write_random,
)


def known_answers(folder: Path) -> list[Known]:
    """The pool with transformers' answers on the checkpoint in `folder`."""
    reference: Any = reference_of(folder)
    audio_token = reference.config.audio_token_id
    answers = []
    for request in pool():
        assert audio_token not in (*request.tokens_before, *request.tokens_after)
        num_audio = num_audio_tokens(len(request.samples))
        answers.append(Known(request, tuple(reference_tokens(reference, request, num_audio))))
    return answers


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Small matrices are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small native checkpoint, not to be written to."""
    return write_random(tmp_path_factory.mktemp("native"), SHAPES[0], seed=1)


@pytest.fixture(scope="session")
def reference(native: Path) -> Any:
    """`native` as transformers runs it."""
    return reference_of(native)


@pytest.fixture(scope="session")
def known(native: Path) -> list[Known]:
    """The pool's requests with their answers on `native`."""
    return known_answers(native)


@pytest.fixture(scope="session")
def model(native: Path, one_thread: None) -> Model:
    """`native` as we run it."""
    return load_model(native, device="cpu", dtype=torch.float32)


@pytest.fixture
def runner(model: Model) -> TorchRunner:
    """A fresh cache on `model`."""
    return TorchRunner(model, num_slots=OPTIONS.max_num_seqs, max_model_len=OPTIONS.max_model_len)


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


StartEngine = Callable[..., EngineClient]


@pytest.fixture
def start_engine() -> Iterator[StartEngine]:
    """Start an engine on a runner; stopped when the test ends."""
    started: list[EngineClient] = []

    def start(
        runner: Runner,
        options: EngineOptions = OPTIONS,
        on_step: Callable[[StepStats], None] | None = None,
    ) -> EngineClient:
        engine = EngineClient([EngineCore(runner, options, on_step)])
        engine.start()
        started.append(engine)
        return engine

    yield start
    for engine in started:
        engine.stop()


@pytest.fixture(scope="session", params=[*(s.name for s in SHAPES), *embedded_names()])
def any_checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Every random shape and every shipped checkpoint."""
    shapes = {shape.name: shape for shape in SHAPES}
    if request.param in shapes:
        return write_random(tmp_path_factory.mktemp("native"), shapes[request.param], seed=2)
    return EMBEDDED / str(request.param)


@pytest.fixture(scope="session")
def any_checkpoint_known(any_checkpoint: Path) -> list[Known]:
    """The pool's requests with their answers on `any_checkpoint`."""
    return known_answers(any_checkpoint)


@pytest.fixture
def any_engine(any_checkpoint: Path, one_thread: None) -> Iterator[EngineClient]:
    """The whole engine on `any_checkpoint`, as the server builds it."""
    engine = EngineClient([build_engine(any_checkpoint, "cpu", "float32", OPTIONS)])
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def start_process(native: Path) -> Iterator[StartProcess]:
    """Start an engine's process on `native`; stopped when the test ends."""
    started: list[Started] = []

    def start(options: EngineOptions = OPTIONS, **observers: Any) -> Started:
        started.append(Started(spec(native, options), **observers))
        started[-1].start()
        return started[-1]

    yield start
    for engine in started:
        engine.stop()


@pytest.fixture(scope="session")
def shared_process(native: Path) -> Iterator[Started]:
    """One that tests share which leave it as they found it."""
    engine = Started(spec(native))
    engine.start()
    yield engine
    engine.stop()
