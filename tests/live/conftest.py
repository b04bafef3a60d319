"""The embedded checkpoint's engine on the CPU, and what live sessions need around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from predictor.audio.vad import load_detector
from predictor.engine import EngineClient, build_engine
from predictor.engine.options import EngineOptions
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from tests.api import conftest as api_conftest
from tests.live.play import Studio

CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"


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


# The running servers are those of the routes' tests.
start_server = api_conftest.start_server
server = api_conftest.server
