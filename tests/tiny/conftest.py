from __future__ import annotations

import ctypes.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The committed checkpoint, whose tokenizer the maker uses."""
    return Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"


@pytest.fixture(scope="session")
def speech_block(checkpoint: Path) -> object:
    """A block of forty freshly synthesized items."""
    if ctypes.util.find_library("espeak-ng") is None:
        pytest.skip("libespeak-ng is not installed (Debian: espeak-ng)")
    from tests.tiny.corpus import ItemMaker

    return ItemMaker(checkpoint, seed=5).make_block(40)
