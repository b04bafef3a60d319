"""Checkpoints for the model's tests: random ones of several shapes, and the shipped ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from predictor.model.checkpoint.weights import load_model
from predictor.model.model import Model
from tests.model.checkpoints import EMBEDDED, SHAPES, embedded_names, reference_of, write_random

RANDOM = {shape.name: shape for shape in SHAPES}


@pytest.fixture(scope="session", params=[*RANDOM, *embedded_names()])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native checkpoint's folder."""
    if request.param in RANDOM:
        return write_random(tmp_path_factory.mktemp("native"), RANDOM[request.param])
    return EMBEDDED / str(request.param)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small native checkpoint, not to be written to."""
    return write_random(tmp_path_factory.mktemp("native"), RANDOM["grouped"], seed=1)


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Any:
    """`checkpoint` as transformers runs it."""
    return reference_of(checkpoint)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Model:
    """`checkpoint` as we run it."""
    return load_model(checkpoint, device="cpu", dtype=torch.float32)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """Nothing here needs gradients."""
    with torch.inference_mode():
        yield
