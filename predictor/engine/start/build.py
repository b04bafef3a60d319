"""From a checkpoint folder to an engine that is ready to start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from predictor.engine.core import EngineCore
from predictor.engine.options import EngineOptions, StepStats
from predictor.engine.pages import PAGE_TOKENS
from predictor.engine.runner import TorchRunner
from predictor.engine.start.memory import (
    cuda_work_bytes,
    head_copy_bytes,
    keeps_head_copy,
    plan_pages,
    work_bytes,
)
from predictor.model.checkpoint.weights import load_model
from predictor.model.config import ModelConfig
from predictor.model.model import Model
from predictor.model.precision import Precision, choose_kv_dtype, choose_precision
from predictor.model.quantized import check_quantized, quantize, quantizer

logger = logging.getLogger(__name__)

READY_SEQUENCES = 4  # what the graphs made before readiness serve; the others follow when idle
READY_PREFILL_S = 2


def build_engine(
    model_path: Path,
    device: str | torch.device,
    precision: str | torch.dtype,
    options: EngineOptions,
    on_step: Callable[[StepStats], None] | None = None,
) -> EngineCore:
    """Load the weights and plan the cache. The engine is not started yet.

    `device` is "auto" (CUDA where there is one), "cpu" or "cuda[:n]"; `precision` is
    one of `choose_precision`. CheckpointError when the folder cannot be served, ValueError when
    the device cannot run the precision, or the cache's, or no sequence fits in memory.
    """
    device = choose_device(device)
    runner = build_runner(model_path, device, precision, options)
    return EngineCore(runner, options, on_step, device=str(device))


def build_runner(
    model_path: Path,
    device: str | torch.device,
    precision: str | torch.dtype,
    options: EngineOptions,
) -> TorchRunner:
    """As `build_engine`, but only what takes long, ready for the first requests."""
    device = choose_device(device)
    chosen = choose_precision(precision, device)
    dtype = chosen.dtype
    kv_dtype = choose_kv_dtype(options.kv_precision, chosen, device)
    if device.type == "cuda" and dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # TF32 would cost three digits
    quantize_part = quantizer(chosen.name, device) if chosen.is_quantized else None
    config = ModelConfig.from_folder(model_path)
    max_model_len = min(options.max_model_len, config.text.max_positions)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        logger.info("device open")
    with ThreadPoolExecutor(1, "rehearsal") as beside:
        rehearsal = beside.submit(rehearse, config, device, chosen, kv_dtype)
        model = load_model(model_path, device=device, dtype=dtype, quantize_part=quantize_part)
        rehearsal.result()
    if chosen.is_quantized:
        check_quantized(model, chosen.name)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the cache is planned from what is free
    reserve = cuda_work_bytes if device.type == "cuda" else work_bytes
    work = reserve(config, options, max_model_len, dtype)
    work += head_copy_bytes(config.text, device, dtype)
    num_pages = plan_pages(config.text, options, max_model_len, device, kv_dtype, work)
    logger.info(
        "loaded %s on %s in %s: %d pages of %d tokens",
        model_path, device, chosen.name, num_pages, PAGE_TOKENS,
    )  # fmt: skip
    return make_runner(
        model,
        num_slots=min(options.max_num_seqs, num_pages),
        num_pages=num_pages,
        max_model_len=max_model_len,
        max_prefill_audio_s=options.max_prefill_audio_s,
        max_prefill_tokens=options.max_prefill_tokens,
        kv_dtype=kv_dtype,
    )


def rehearse(
    config: ModelConfig,
    device: torch.device,
    precision: Precision,
    kv_dtype: torch.dtype,
) -> None:
    """Compile on CUDA what serving will run; whatever fails here, the real runner will say."""
    if device.type != "cuda":
        return
    began_s = time.monotonic()
    try:
        compiled = _compiled_by_rehearsal(config, device, precision, kv_dtype)
    except Exception:
        logger.exception("the rehearsal failed; the start goes on without it")
        return
    seconds = time.monotonic() - began_s
    counts = {"compiled": sum(compiled), "found": len(compiled) - sum(compiled)}
    logger.info("kernels ready", extra={"fields": {"seconds": round(seconds, 3), **counts}})


def _compiled_by_rehearsal(
    config: ModelConfig,
    device: torch.device,
    precision: Precision,
    kv_dtype: torch.dtype,
) -> list[bool]:
    """Whether each kernel that came up had to be compiled."""
    from predictor.engine.cuda.runner import GraphOptions, GraphRunner
    from predictor.engine.start.warm_up import MAX_LENGTH, NUM_SLOTS, rehearse, stand_in
    from predictor.model.cuda.decoder import Fusion
    from predictor.model.cuda.kernel_cache import noted, use_kernels

    with torch.cuda.device(device), noted() as compiled:
        major, minor = torch.cuda.get_device_capability(device)
        use_kernels(10 * major + minor)
        model = stand_in(config, device, precision.dtype)
        if precision.is_quantized:
            quantize(model, precision.name)
        # Without graphs: a capture minds what other threads do to the device.
        fusion = Fusion(head_8_bit=keeps_head_copy(device))
        options = GraphOptions(use_graphs=False, fusion=fusion)
        runner = GraphRunner(
            model, num_slots=NUM_SLOTS, max_model_len=MAX_LENGTH, options=options,
            kv_dtype=kv_dtype,
        )  # fmt: skip
        rehearse(runner)
        torch.cuda.synchronize()
        # Each thread that compiled left a workspace of 32 MiB to the matrix library.
        torch._C._cuda_clearCublasWorkspaces()
    return compiled


def make_runner(
    model: Model,
    *,
    num_slots: int,
    num_pages: int | None = None,
    max_model_len: int,
    max_prefill_audio_s: float,
    max_prefill_tokens: int,
    kv_dtype: torch.dtype | None = None,
) -> TorchRunner:
    """The fast runner on CUDA, ready for small batches; larger graphs follow.

    `kv_dtype`: what the cache holds; None = what activations are. `num_pages` of it: None = as many
    as all slots can fill.
    """
    if model.device.type != "cuda":
        return TorchRunner(
            model, num_slots=num_slots, max_model_len=max_model_len, kv_dtype=kv_dtype,
            num_pages=num_pages,
        )  # fmt: skip
    from predictor.engine.cuda.runner import (  # what only CUDA machines need
        GraphOptions,
        GraphRunner,
    )
    from predictor.model.cuda.decoder import Fusion

    graph_options = GraphOptions(
        fusion=Fusion(head_8_bit=keeps_head_copy(model.device)),
        max_prefill_audio_s=max_prefill_audio_s, max_prefill_tokens=max_prefill_tokens,
    )  # fmt: skip
    runner = GraphRunner(
        model, num_slots=num_slots, max_model_len=max_model_len, options=graph_options,
        kv_dtype=kv_dtype, num_pages=num_pages,
    )  # fmt: skip
    logger.info("kernels checked")
    runner.capture_up_to(READY_SEQUENCES, READY_PREFILL_S)
    logger.info("first graphs captured")
    return runner


def choose_device(device: str | torch.device) -> torch.device:
    """The device to run on; ValueError for CUDA where there is none."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cpu":
        return torch.device("cpu")  # an index only tells engines on one CPU apart
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda[:n], is {str(device)!r}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {str(device)!r}, but this machine has no CUDA device")
    return chosen
