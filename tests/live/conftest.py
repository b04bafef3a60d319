"""The embedded checkpoint's engine on the CPU, and what live sessions need around it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor.audio.vad import load_detector
from predictor.engine import EngineClient, build_engine
from predictor.engine.options import EngineOptions
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from tests.api import conftest as api_conftest
from tests.api.conftest import Server
from tests.live.play import Studio
from tests.live.server import hear, pcm16, transcripts
from tests.live.streams import join

CHECKPOINTS = Path(__file__).parents[2] / "predictor" / "checkpoints"
CHECKPOINT, ALIGNER = CHECKPOINTS / "tiny", CHECKPOINTS / "tiny-aligner"


@pytest.fixture(scope="session")
def engine() -> Iterator[EngineClient]:
    """Started; 16 sequences at once."""
    options = EngineOptions(max_num_seqs=16, max_model_len=1024)
    engine = EngineClient([build_engine(CHECKPOINT, "cpu", "float32", options)])
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def studio() -> Studio:
    """Prompts, tokenizer and speech detector."""
    tokenizer = TextTokenizer.load(CHECKPOINT)
    return Studio(PromptBuilder(tokenizer, 512), tokenizer, load_detector("silero"))


start_server = api_conftest.start_server  # as the routes' tests start theirs


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server that most tests share: with the page, and with an aligner."""
    server = api_conftest.start("--enable_page=true", f"--aligner_dir={ALIGNER}")
    yield server
    server.end()


@pytest.fixture(scope="session")
def guarded() -> Iterator[Server]:
    """One with keys and the page, that takes two sessions of six seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWEN3_ASR_API_KEYS", "right,other")
        server = api_conftest.start(
            "--max_live_sessions=2", "--max_live_session_s=6", "--enable_page=true"
        )
    yield server
    server.end()


@pytest.fixture(scope="session")
def brief() -> Iterator[Server]:
    """One without page and gRPC, that ends each session after 4 s."""
    server = api_conftest.start("--max_live_session_s=4", "--enable_grpc=false")
    yield server
    server.end()


@pytest.fixture(scope="session")
def two() -> np.ndarray:
    """An English and a Chinese sentence."""
    spoken = join("two", ["en-short-003", "zh-short-002"], 1).samples
    return np.concatenate([spoken, np.zeros(16_000, np.float32)])


@pytest.fixture(scope="session")
def plain(server: Server, two: np.ndarray) -> list[Any]:
    """The events of it, in packets of 0.2 s."""
    return asyncio.run(hear(server, pcm16(two), 2, transcription={"model": "qwen3-asr"}))


@pytest.fixture(scope="session")
def texts(plain: list[Any]) -> list[str]:
    """What the server hears in it."""
    return transcripts(plain)
