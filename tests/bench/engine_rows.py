"""The rows of the engine's benchmark, the most telling first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from predictor.engine.cuda.runner import GraphOptions
from predictor.engine.runner import TorchRunner
from predictor.model.cuda.decoder import PLAIN
from tests.bench import engine_loads as loads
from tests.bench import reuse
from tests.bench.engine_bench import Bench
from tests.bench.load import options
from tests.bench.parts import decode_steps, kernel_times, prefill_parts

Measure = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One figure, how it comes about, and the seconds that must be left for it."""

    name: str
    run: Measure
    least_s: float = 8.0


@dataclass(frozen=True)
class Sizes:
    """How much is asked for: of the true shapes, or of a small one in a test."""

    small: bool

    @property
    def long_s(self) -> float:
        return 2.0 if self.small else 30.0

    @property
    def short_s(self) -> float:
        return 1.0 if self.small else 10.0

    @property
    def long(self) -> str:
        return f"{self.long_s:g} s"

    @property
    def short(self) -> str:
        return f"{self.short_s:g} s"

    @property
    def many(self) -> int:
        """Clips."""
        return 6 if self.small else 2048

    @property
    def num_alone(self) -> int:
        """Clips, one at a time."""
        return 3 if self.small else 20

    def mixed_s(self) -> list[float]:
        """Lengths of so many clips, from 1 s to that of a long one."""
        rng = torch.Generator().manual_seed(1)
        lengths: list[float] = (1 + 29 * torch.rand(self.many, generator=rng)).tolist()
        return [1.0 + s / 30 for s in lengths] if self.small else lengths


def run_shape(bench: Bench, wanted: Callable[[str], bool]) -> None:
    """All rows of the shape in use that are wanted."""
    bench.row("start", lambda: loads.start(bench))
    if bench.runner is None:  # the kernels or graphs broke: what is left is still worth its rows
        plain = GraphOptions(use_graphs=False, fusion=PLAIN, check_kernels=False)
        bench.runner = bench.graph_runner(plain)
    sizes = Sizes(bench.small)
    for rows in (_first_rows, _reuse_rows, _part_rows, _crowded_rows, _other_rows):
        for row in rows(bench, sizes):
            if wanted(row.name):
                bench.row(row.name, row.run, 1.0 if bench.small else row.least_s)
    bench.runner = None


def _first_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    runner, long_s, short_s = bench.runner, sizes.long_s, sizes.short_s
    all_long = [long_s] * sizes.many
    yield Row(f"offline {sizes.long}", lambda: loads.offline(bench, runner, all_long, 3))
    in_flight, window_s = (4, 1.0) if sizes.small else (512, 10.0)
    for duration_s in (long_s, short_s):
        run: Measure = lambda d=duration_s: loads.full(bench, runner, in_flight, d, window_s)  # noqa: E731
        yield Row(f"{in_flight} x {duration_s:g} s always", run, 15.0)
    yield Row(
        f"one {sizes.short} clip", lambda: loads.alone(bench, runner, short_s, sizes.num_alone)
    )
    yield Row(
        f"one {sizes.long} clip, first token", lambda: loads.first_token(bench, runner, long_s)
    )
    yield Row("agreement", lambda: loads.agreement(bench))


def _reuse_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    runner, small, long_s = bench.runner, sizes.small, sizes.long_s
    yield Row(
        f"{sizes.short} draft", lambda: reuse.draft(bench, runner, sizes.short_s, sizes.num_alone)
    )
    wall_s = 2.0 if small else 6.0
    for count in (3,) if small else (32, 100, 250, 500):
        run: Measure = lambda n=count: reuse.steps(bench, runner, n, wall_s)  # noqa: E731
        yield Row(f"{count} kept sequences", run, 12.0)
    in_flight, under_load_s = (4, 2.0) if small else (64, 10.0)
    yield Row(
        f"64 x {sizes.long} from readiness on",
        lambda: reuse.under_load(bench, long_s, in_flight, under_load_s),
        15.0,
    )
    yield Row(
        f"{sizes.long} shared context", lambda: reuse.context(bench, long_s, sizes.many // 2), 20.0
    )


def _part_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    runner, small, short_s = bench.runner, sizes.small, sizes.short_s
    yield Row(
        "parts", lambda: prefill_parts(bench.device, runner, bench.clips, sizes.long_s, small)
    )
    yield Row("decode steps", lambda: decode_steps(runner, small))
    all_short = [short_s] * 2 * sizes.many
    yield Row(f"offline {sizes.short}", lambda: loads.offline(bench, runner, all_short))
    yield Row("offline mixed", lambda: loads.offline(bench, runner, sizes.mixed_s()))
    yield Row(
        f"steady 32 x {sizes.short}, p95/p50",
        lambda: loads.steady(bench, runner, 2 if small else 32, short_s),
    )


def _crowded_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    """Many clients always, of files, and of files and kept sequences."""
    small, runner = sizes.small, bench.runner
    clients = 3 if small else 384
    for duration_s in (sizes.short_s, sizes.long_s):
        run: Measure = lambda d=duration_s: loads.steady(bench, runner, clients, d, 3)  # noqa: E731
        yield Row(f"steady {clients} x {duration_s:g} s", run, 15.0)
    wall_s, kept, files = (2.0, 3, 2) if small else (8.0, 100, 320)
    yield Row(
        f"{kept} kept sequences and {files} x {sizes.long}",
        lambda: reuse.steps(bench, runner, kept, wall_s, files),
        15.0,
    )


def _other_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    """The same work in other ways."""
    runner = bench.runner
    for count in (1, 4):
        run: Measure = lambda k=count: _steps(bench, k, sizes.long_s)  # noqa: E731
        yield Row(f"offline {sizes.long}, {count} steps a look", run)
    few = [sizes.short_s] * (4 if sizes.small else 64)
    yield Row(f"offline {len(few)} x {sizes.short}", lambda: loads.offline(bench, runner, few))
    yield Row(f"plain runner, {len(few)} x {sizes.short}", lambda: _plain(bench, few))
    batch = 2 if sizes.small else 32
    yield Row(
        f"generate, {batch} x {sizes.short}",
        lambda: loads.generate(bench, batch, sizes.short_s),
        15.0,
    )
    if bench.device.type == "cuda":
        yield Row("kernels", lambda: kernel_times(runner, bench.clips))


def _steps(bench: Bench, steps: int, duration_s: float) -> dict[str, Any]:
    """The same load with another number of steps between looks; the graphs stay."""
    runner = bench.runner
    before = runner._options
    runner._options = replace(before, steps=((1, steps),))
    try:
        return loads.offline(bench, runner, [duration_s] * (4 if bench.small else 1024), 1)
    finally:
        runner._options = before


def _plain(bench: Bench, durations_s: list[float]) -> dict[str, Any]:
    assert bench.model is not None
    runner = TorchRunner(
        bench.model,
        num_slots=min(64, len(durations_s)),
        max_model_len=options().max_model_len,
    )
    return loads.offline(bench, runner, durations_s)
