"""A checkpoint read in a thread of its own, begun before the web's packages are imported.

Imports hold the interpreter, reading and compiling mostly do not: side by side they take little
more time than the longer of them. This module imports all that the thread will use, so that two
threads do not import at once.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from predictor.engine.build import build_runner, choose_device, choose_dtype
from predictor.engine.options import EngineOptions
from predictor.engine.runner import TorchRunner
from predictor.model.weights import resolve_model
from predictor.settings import Settings
from predictor.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

# Each operation on tensors lets go of the interpreter; while the other thread imports, getting it
# back takes as long as this, five milliseconds if nothing is said.
SWITCH_S = 0.0002


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read, and the runner that it was read for."""

    folder: Path
    device: torch.device
    dtype: torch.dtype
    tokenizer: TextTokenizer
    runner: TorchRunner


class Loading:
    """A checkpoint on its way into memory. The thread ends by itself and cannot be stopped."""

    def __init__(self, settings: Settings) -> None:
        self.began_s = time.monotonic()
        self._settings = settings
        self.options = _engine_options(settings)
        self._result: Future[Checkpoint] = Future()
        _import_late(settings)
        threading.Thread(target=self._run, name="loading", daemon=True).start()

    def done(self) -> bool:
        """Whether `result` would return or raise at once."""
        return self._result.done()

    def result(self) -> Checkpoint:
        """Wait for it. Raises what kept the checkpoint from being served."""
        return self._result.result()

    def _run(self) -> None:
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            self._result.set_result(self._load())
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            self._result.set_exception(error)
        finally:
            sys.setswitchinterval(usual_s)

    def _load(self) -> Checkpoint:
        logger.info("loading")
        settings = self._settings
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        folder = resolve_model(
            model_dir=settings.model_dir,
            model_id=settings.model_id,
            revision=settings.model_revision,
        )
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, device)
        with ThreadPoolExecutor(1, "tokenizer") as beside:
            tokenizer = beside.submit(TextTokenizer.load, folder)
            runner = build_runner(folder, device, dtype, self.options)
        return Checkpoint(folder, device, dtype, tokenizer.result(), runner)


def _engine_options(settings: Settings) -> EngineOptions:
    return EngineOptions(
        max_num_seqs=settings.max_num_seqs,
        max_model_len=settings.max_model_len,
        kv_memory_fraction=settings.kv_memory_fraction,
        max_prefill_audio_s=settings.max_prefill_audio_s,
        max_waiting_requests=settings.max_waiting_requests,
        max_waiting_audio_s=settings.max_held_audio_s,
        max_tokens_per_audio_s=settings.max_tokens_per_audio_s,
        stall_timeout_s=settings.stall_timeout_s,
    )


def _import_late(settings: Settings) -> None:
    """What is otherwise imported where it is needed, since not every start needs it."""
    names = ["huggingface_hub._snapshot_download"] if settings.model_id is not None else []
    if torch.cuda.is_available():
        names += [f"predictor.{n}" for n in ("engine.graphs", "engine.rehearsal", "model.kernels")]
    for name in names:
        importlib.import_module(name)
