"""A tokenizer of the right shape, and the processor of transformers as the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from predictor.text.tokenizer import TextTokenizer

CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"


@pytest.fixture(scope="session")
def processor() -> Any:
    return AutoProcessor.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(CHECKPOINT)
