"""The engine: what serves requests on a device. `build_engine` makes a core from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from predictor.engine.client import EngineClient
from predictor.engine.core import EngineCore
from predictor.engine.link.process import CoreProcess
from predictor.engine.link.remote import RemoteCore
from predictor.engine.link.wire import EngineSpec
from predictor.engine.options import EngineOptions, EngineStats, StepStats
from predictor.engine.stream import TokenStream

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

__all__ = [
    "CoreProcess",
    "EngineClient",
    "EngineCore",
    "EngineOptions",
    "EngineSpec",
    "EngineStats",
    "RemoteCore",
    "StepStats",
    "TokenStream",
    "build_engine",
]


def build_engine(
    model_path: Path,
    device: str | torch.device,
    precision: str | torch.dtype,
    options: EngineOptions,
    on_step: Callable[[StepStats], None] | None = None,
) -> EngineCore:
    """See `predictor.engine.start.build`; imported late, so that the rest works without torch."""
    from predictor.engine.start.build import build_engine as build

    return build(model_path, device, precision, options, on_step)
