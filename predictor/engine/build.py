"""From a checkpoint folder to an engine that is ready to start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from predictor.engine.engine import Engine
from predictor.engine.memory import plan_slots
from predictor.engine.options import EngineOptions, StepStats
from predictor.engine.runner import TorchRunner
from predictor.model.model import Model
from predictor.model.precision import choose_precision
from predictor.model.quantized import quantizer
from predictor.model.weights import load_model

logger = logging.getLogger(__name__)

READY_SEQUENCES = 8  # what the graphs made before readiness serve


def build_engine(
    model_path: Path,
    device: str | torch.device,
    precision: str | torch.dtype,
    options: EngineOptions,
    on_step: Callable[[StepStats], None] | None = None,
) -> Engine:
    """Load the weights and plan the cache. The engine is not started yet.

    `device` is "auto" (CUDA where there is one), "cpu" or "cuda[:n]"; `precision` is
    one of `choose_precision`. CheckpointError when the folder cannot be served, ValueError when
    the device cannot run the precision or no sequence fits in memory.
    """
    chosen_device = choose_device(device)
    chosen = choose_precision(precision, chosen_device)
    if chosen_device.type == "cuda" and chosen.dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # TF32 would cost three digits
    model = load_model(
        model_path,
        device=chosen_device,
        dtype=chosen.dtype,
        quantize_part=quantizer(chosen.name, chosen_device) if chosen.is_quantized else None,
    )
    max_model_len = min(options.max_model_len, model.config.text.max_positions)
    num_slots = plan_slots(model.config.text, options, max_model_len, chosen_device, chosen.dtype)
    logger.info(
        "loaded %s on %s in %s: %d slots of %d tokens",
        model_path, chosen_device, chosen.name, num_slots, max_model_len,
    )  # fmt: skip
    runner = make_runner(model, num_slots=num_slots, max_model_len=max_model_len)
    return Engine(runner, options, on_step)


def make_runner(model: Model, *, num_slots: int, max_model_len: int) -> TorchRunner:
    """The fast runner on CUDA, ready for small batches; larger graphs follow at first use."""
    if model.device.type != "cuda":
        return TorchRunner(model, num_slots=num_slots, max_model_len=max_model_len)
    from predictor.engine.graphs import GraphRunner  # needs what only CUDA machines have

    runner = GraphRunner(model, num_slots=num_slots, max_model_len=max_model_len)
    runner.capture_up_to(READY_SEQUENCES)
    return runner


def choose_device(device: str | torch.device) -> torch.device:
    """The device to run on; ValueError for CUDA where there is none."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda[:n], is {str(device)!r}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {str(device)!r}, but this machine has no CUDA device")
    return chosen
