"""The engine's process of the HTTP benchmark: the shape's name stands in for the checkpoint."""

from __future__ import annotations

from collections.abc import Callable

from predictor.engine.link.wire import EngineSpec
from predictor.engine.link.worker import Built, describe, main
from predictor.engine.options import StepStats
from tests.bench.http_engine import bench_engine


def build(spec: EngineSpec, on_step: Callable[[StepStats], None]) -> Built:
    """The benchmark's engine, here."""
    engine = bench_engine(spec.model_path.name, spec.device, spec.options, on_step)
    # By its name servers know whether recordings are begun ahead.
    return Built(engine, describe(engine, engine.device, "auto"))


if __name__ == "__main__":
    main(build)
