"""What a start compiles, loads and plans on a device, done while the weights are still being read.

Kernels depend on a model's shapes and not on its weights. So a stand-in with one layer of each kind
and random weights goes through what the real one will be asked for: after it, the compiled kernels
are in this process and in Triton's cache, the libraries have loaded theirs, and the real runner's
own checks and graphs take moments.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from predictor.engine.options import EngineOptions
from predictor.engine.pages import pages_of_slot
from predictor.engine.runner import TorchRunner
from predictor.engine.sequence import Sequence
from predictor.model.config import ModelConfig
from predictor.model.model import Model
from predictor.types import SAMPLE_RATE_HZ, EngineRequest

NUM_SLOTS = 16
MAX_LENGTH = 512
BATCHES = (1, 2, 4, 8)  # sequences at once: the graphs made before readiness
CLIP_S = 3  # as long as the built-in clip


def rehearse(runner: TorchRunner) -> None:
    """Run a stand-in's runner, NUM_SLOTS of MAX_LENGTH tokens, through prefill and decode."""
    for size in BATCHES:
        sequences = [_sequence(runner, slot) for slot in range(size)]
        for step in (runner.prefill, runner.decode, runner.decode):
            for sequence, tokens in zip(sequences, step(sequences).tokens, strict=True):
                sequence.tokens += tokens


def stand_in(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Model:
    """One layer of each kind, finite random weights."""
    model = Model.empty(one_layer_each(config), device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    for weight in model.tensors().values():
        if weight.dim() == 1:
            weight.fill_(1.0)
        else:
            weight.normal_(0.0, 0.5 / weight[0].numel() ** 0.5, generator=generator)
    model.finish_loading()
    return model


def one_layer_each(config: ModelConfig) -> ModelConfig:
    """The same shapes, once."""
    return replace(
        config,
        audio=replace(config.audio, num_layers=1),
        text=replace(config.text, num_layers=1),
    )


def _sequence(runner: TorchRunner, slot: int) -> Sequence:
    rng = np.random.default_rng(slot)
    request = EngineRequest(
        request_id=f"rehearsal-{slot}",
        samples=0.1 * rng.standard_normal(CLIP_S * SAMPLE_RATE_HZ, dtype=np.float32),
        tokens_before=(0, 1, 2),
        tokens_after=(0, 1),
        max_new_tokens=32,
    )
    sequence = Sequence(request, runner.limits, EngineOptions())
    sequence.slot = slot
    sequence.pages = pages_of_slot(slot, runner.limits.max_model_len, runner.page_size)
    return sequence
