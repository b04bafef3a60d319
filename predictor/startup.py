"""What makes a start short, in one place: each trick, and what it is worth.

Imports hold the interpreter for seconds, reading weights and compiling mostly do not. So the order
is: read the weights' file ahead, import what the loading thread uses, start that thread, and import
the web's packages beside it.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from predictor.model.checkpoint.readahead import read_ahead
from predictor.settings.fields import Settings

# Each operation on tensors releases the GIL; while the other thread imports, getting it back takes
# as long as this, five milliseconds if nothing is said.
_LOADING_SWITCH_S: Final = 0.0002
# The engine's thread wants the GIL back after each step, from a loop that serves requests.
_SERVING_SWITCH_S: Final = 0.0005

_ENGINE: Final = ("predictor.engine.start.build",)
_ENGINE_ON_CUDA: Final = (
    "predictor.engine.cuda.runner",
    "predictor.engine.start.warm_up",
    "predictor.model.cuda.kernel_cache",
    "predictor.model.cuda.kernels.decoder",
    "predictor.model.cuda.kernels.encoder",
    "predictor.model.cuda.kernels.mel",
    "predictor.model.cuda.kernels.prefill",
    "predictor.model.cuda.kernels.small_batch",
    "predictor.model.cuda.kernels.small_batch_attention",
    "predictor.model.cuda.kernels.small_head",
    "predictor.model.cuda.kernels.tiled",
)


def process_age_s() -> float:
    """Seconds since this process was started, imports and all."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since the machine was
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s


def begin(settings: Settings) -> None:
    """Before anything heavy is imported, here or in a process of ours."""
    # Threads of torch that wait burn a core each, unless told before torch is there.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.model_dir is not None:
        read_ahead(settings.model_dir)


@contextmanager
def importing() -> Iterator[None]:
    """Import inside: what that leaves behind stays, and is never looked through for garbage.

    Looking takes a fifth of the imports' time, and later some of every full collection's.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def import_before_loading(settings: Settings, *, with_engine: bool, on_cuda: bool) -> None:
    """What the loading thread will use, so that two threads do not import at once."""
    names: list[str] = []
    if settings.model_id is not None:
        names.append("huggingface_hub._snapshot_download")
    if with_engine:
        names += _ENGINE
        names += _ENGINE_ON_CUDA if on_cuda else ()
    _import(names)


def _import(names: Iterable[str]) -> None:
    for name in names:
        importlib.import_module(name)


@contextmanager
def sharing_the_gil(*, with_engine: bool) -> Iterator[None]:
    """Load inside, beside the imports; `with_engine`: then serve beside an engine's thread."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(_LOADING_SWITCH_S)
    loaded = False
    try:
        yield
        loaded = True
    finally:
        sys.setswitchinterval(_SERVING_SWITCH_S if loaded and with_engine else usual_s)
