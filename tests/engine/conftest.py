"""Engines on random checkpoints, and the tokens that transformers gives for a pool of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from predictor.types import EngineRequest
from tests.model.checkpoints import (
    AUDIO_END,
    AUDIO_START,
    EMBEDDED,
    SHAPES,
    clip,
    embedded_names,
    reference_of,
    reference_tokens,
    write_random,
)

# Random weights fall into loops that the repetition guard would end.
OPTIONS = EngineOptions(max_num_seqs=4, max_model_len=640, max_repeats=10_000)


@dataclass(frozen=True)
class Known:
    """A request and what transformers' `generate` answers it with, alone."""

    request: EngineRequest
    tokens: tuple[int, ...]


def pool() -> list[EngineRequest]:
    """Requests of all kinds: tiny and long clips, short and long prompts, one to sixty tokens."""
    kinds = [  # seconds of audio, tokens before it, most new tokens
        (1.0, 3, 12), (30.0, 5, 20), (0.2, 1, 30), (7.99, 40, 1), (8.0, 4, 60), (2.5, 130, 25),
        (12.3, 2, 40), (1.0, 3, 5), (16.01, 9, 16),
    ]  # fmt: skip
    return [
        EngineRequest(
            request_id=f"r{i}",
            samples=clip(duration_s, seed=i),
            tokens_before=(*((7 * i + j) % 200 for j in range(num_before - 1)), AUDIO_START),
            tokens_after=(AUDIO_END, *range(i + 1)),
            max_new_tokens=max_new_tokens,
        )
        for i, (duration_s, num_before, max_new_tokens) in enumerate(kinds)
    ]


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
