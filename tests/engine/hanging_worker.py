"""An engine's process whose device hangs on some requests, by their names."""

from __future__ import annotations

import ctypes
import threading

from predictor.engine.core import EngineCore
from predictor.engine.link.wire import EngineSpec
from predictor.engine.link.worker import Built, OnStep, describe, main
from predictor.engine.runner import TorchRunner
from predictor.model.checkpoint.weights import load_model
from tests.engine.faulty import FaultyRunner, Ids

HANGS = "hangs"
HANGS_WITH_THE_GIL = "hangs with the GIL"  # and no other thread of the process runs


def build(spec: EngineSpec, on_step: OnStep) -> Built:
    """A real engine."""
    import torch

    torch.set_num_threads(1)
    model = load_model(spec.model_path, device="cpu", dtype=torch.float32)
    size = {"num_slots": spec.options.max_num_seqs, "max_model_len": spec.options.max_model_len}
    runner = FaultyRunner(TorchRunner(model, **size))

    def before(phase: str, ids: Ids) -> None:
        if HANGS in ids:
            threading.Event().wait()
        if HANGS_WITH_THE_GIL in ids:
            ctypes.PyDLL(None).sleep(600)

    runner.before = before
    core = EngineCore(runner, spec.options, on_step)
    return Built(core, describe(core, "cpu", "float32"))


if __name__ == "__main__":
    main(build)
