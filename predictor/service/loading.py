"""A checkpoint read in a thread of its own, begun before the web's packages are imported.

Imports hold the interpreter, reading and compiling mostly do not: side by side they take little
more time than the longer of them. This module imports all that the thread will use, so that two
threads do not import at once. Where the engine has a process of its own, that process imports torch
and reads the weights, and the thread here reads the tokenizer and waits.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from predictor.engine import (
    Engine,
    EngineOptions,
    EngineProcess,
    EngineSpec,
    StepStats,
    build_engine,
)
from predictor.model.checkpoint.source import resolve_model
from predictor.settings.fields import Settings
from predictor.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

# Each operation on tensors lets go of the interpreter; while the other thread imports, getting it
# back takes as long as this, five milliseconds if nothing is said.
SWITCH_S = 0.0002
# The engine's thread wants the interpreter back after each step, from a loop that serves requests.
SERVING_SWITCH_S = 0.0005

Observer = Callable[[StepStats], None]


@dataclass(frozen=True, slots=True)
class MadeEngine:
    """An engine with its weights loaded, not started, and where it runs."""

    engine: Engine | EngineProcess
    device: str
    dtype: str


MakeEngine = Callable[[Settings, Path, Observer], MadeEngine]


def make_engine(settings: Settings, folder: Path, on_step: Observer) -> MadeEngine:
    """Load the checkpoint in `folder` as the settings say, here or in a process of its own.

    Raises CheckpointError, ValueError, RuntimeError.
    """
    if has_own_process(settings):  # then nothing here may touch the device
        process = EngineProcess(engine_spec(settings, folder), on_step)
        return MadeEngine(process, process.loaded.device, process.loaded.dtype)
    import torch

    from predictor.engine.start.build import choose_device
    from predictor.model.precision import choose_precision

    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    device = choose_device(settings.device)
    precision = choose_precision(settings.dtype, device)
    engine = build_engine(folder, device, precision.name, engine_options(settings), on_step)
    return MadeEngine(engine, str(device), precision.name)


def has_own_process(settings: Settings) -> bool:
    """Whether the engine runs in a process of its own: as set, or where there is CUDA."""
    if settings.engine_process is not None:
        return settings.engine_process
    return settings.device != "cpu" and has_cuda()


def has_cuda() -> bool:
    """Whether the driver knows a device. Asked of the driver itself: torch is not imported yet,
    and would not be needed here at all if the answer is yes."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return not failed and count.value > 0


def engine_spec(settings: Settings, folder: Path) -> EngineSpec:
    """What a process of its own must know to make the same engine."""
    return EngineSpec(
        model_path=folder,
        device=settings.device,
        dtype=settings.dtype,
        options=engine_options(settings),
        num_threads=settings.num_threads,
        log_format=settings.log_format,
        log_level=settings.log_level,
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read, and the engine that it was read for."""

    folder: Path
    tokenizer: TextTokenizer
    made: MadeEngine


class Loading:
    """A checkpoint on its way into memory. The thread ends by itself and cannot be stopped."""

    def __init__(self, settings: Settings, make_engine: MakeEngine = make_engine) -> None:
        """`make_engine`: another one is for benchmarks, whose weights come from nowhere."""
        self.began_s = time.monotonic()
        self._settings = settings
        self._make_engine = make_engine
        self._observer: Observer | None = None  # nobody yet: the metrics are still being imported
        self._result: Future[Checkpoint] = Future()
        _import_late(settings)
        threading.Thread(target=self._run, name="loading", daemon=True).start()

    def done(self) -> bool:
        """Whether `result` would return or raise at once."""
        return self._result.done()

    def result(self, observer: Observer | None = None) -> Checkpoint:
        """Wait for it. Raises what kept the checkpoint from being served.

        `observer` hears of the engine's steps from now on.
        """
        self._observer = observer
        return self._result.result()

    def _observe(self, step: StepStats) -> None:
        if self._observer is not None:
            self._observer(step)

    def _run(self) -> None:
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            checkpoint = self._load()
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            sys.setswitchinterval(usual_s)
            self._result.set_exception(error)
        else:
            own_process = has_own_process(self._settings)
            sys.setswitchinterval(usual_s if own_process else SERVING_SWITCH_S)
            self._result.set_result(checkpoint)

    def _load(self) -> Checkpoint:
        logger.info("loading")
        settings = self._settings
        folder = resolve_model(
            model_dir=settings.model_dir,
            model_id=settings.model_id,
            revision=settings.model_revision,
        )
        with ThreadPoolExecutor(1, "tokenizer") as beside:
            tokenizer = beside.submit(TextTokenizer.load, folder)
            made = self._make_engine(settings, folder, self._observe)
        return Checkpoint(folder, tokenizer.result(), made)


def engine_options(settings: Settings) -> EngineOptions:
    """The settings that are the engine's."""
    return EngineOptions(
        max_num_seqs=settings.max_num_seqs,
        max_model_len=settings.max_model_len,
        kv_precision=settings.kv_precision,
        kv_memory_fraction=settings.kv_memory_fraction,
        max_prefill_audio_s=settings.max_prefill_audio_s,
        max_waiting_requests=settings.max_waiting_requests,
        max_waiting_audio_s=settings.max_held_audio_s,
        max_kept_sequences=settings.max_live_sessions,
        max_tokens_per_audio_s=settings.max_tokens_per_audio_s,
        stall_timeout_s=settings.stall_timeout_s,
    )


def _import_late(settings: Settings) -> None:
    """What is otherwise imported where it is needed, since not every start needs it."""
    names = ["huggingface_hub._snapshot_download"] if settings.model_id is not None else []
    if not has_own_process(settings):
        names.append("predictor.engine.start.build")
        if has_cuda():
            names += ["predictor.engine.cuda.runner", "predictor.engine.start.warm_up"]
            names += ["predictor.engine.start.kernel_cache"]
            kinds = ["kernels", "encoder_kernels", "prefill_kernels"]
            kinds += ["thin_kernels", "thin_attention_kernels"]
            names += ["predictor.model.cuda.kernels.mel", *(f"predictor.model.{k}" for k in kinds)]
    for name in names:
        importlib.import_module(name)
