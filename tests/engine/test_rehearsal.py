"""The rehearsal asks of a stand-in what a start asks of the model; here on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.runner import TorchRunner
from predictor.engine.start.warm_up import (
    BATCHES,
    MAX_LENGTH,
    NUM_SLOTS,
    rehearse,
    stand_in,
)
from predictor.model.attention import FP8
from predictor.model.config import ModelConfig
from predictor.model.cuda.decoder import PLAIN
from predictor.model.model import Model

CPU = torch.device("cpu")


class Observed(TorchRunner):
    """Notes the steps that it ran."""

    steps: list[tuple[str, int]]

    def prefill(self, sequences):  # type: ignore[no-untyped-def]
        self.steps.append(("prefill", len(sequences)))
        return super().prefill(sequences)

    def decode(self, sequences):  # type: ignore[no-untyped-def]
        self.steps.append(("decode", len(sequences)))
        return super().decode(sequences)


def test_every_batch_of_the_first_graphs_is_run(native: Path) -> None:
    steps: list[tuple[str, int]] = []

    model = stand_in(ModelConfig.from_folder(native), CPU, torch.float32)
    runner = Observed(model, num_slots=NUM_SLOTS, max_model_len=MAX_LENGTH)
    runner.steps = steps
    rehearse(runner)
    for size in BATCHES:
        assert ("prefill", size) in steps
        assert ("decode", size) in steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_dtype", [None, FP8])
def test_the_fast_runner_takes_it_too(
    native: Path, dtype: torch.dtype, kv_dtype: torch.dtype | None
) -> None:
    options = GraphOptions(use_graphs=False, fusion=PLAIN)
    model = stand_in(ModelConfig.from_folder(native), CPU, dtype)
    runner = GraphRunner(
        model, num_slots=NUM_SLOTS, max_model_len=MAX_LENGTH, options=options, kv_dtype=kv_dtype
    )
    rehearse(runner)
    assert runner.cache.data.dtype == (kv_dtype or dtype)


def test_the_stand_in_has_one_layer_of_the_models_shapes(native: Path) -> None:
    config = ModelConfig.from_folder(native)
    model = stand_in(config, CPU, torch.float32)
    tensors = model.tensors()
    assert all(weight.isfinite().all() for weight in tensors.values())
    full = Model.empty(config, device=torch.device("meta"), dtype=torch.float32).tensors()
    assert {name: weight.shape for name, weight in tensors.items()} == {
        name: full[name].shape for name in tensors
    }
