"""An engine's process that never finishes loading."""

from __future__ import annotations

import threading

from predictor.engine.link.wire import EngineSpec
from predictor.engine.link.worker import Built, OnStep, main


def build(spec: EngineSpec, on_step: OnStep) -> Built:
    """Wait for ever."""
    threading.Event().wait()
    raise AssertionError("nobody sets it")


if __name__ == "__main__":
    main(build)
