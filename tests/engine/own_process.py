"""An engine in a process of its own, and looks at it from outside."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from predictor.engine import (
    CoreProcess,
    EngineClient,
    EngineOptions,
    EngineSpec,
    RemoteCore,
    StepStats,
)
from predictor.engine.link.process import WORKER
from predictor.types import ExtendRequest
from tests.engine.asking import OPTIONS, Known


class Started(EngineClient):
    """A client of an engine's process that ends with it."""

    def __init__(
        self,
        spec: EngineSpec,
        on_step: Callable[[StepStats], None] | None = None,
        on_lost: Callable[[], None] = lambda: None,
        worker: str = WORKER,
    ) -> None:
        self.process = CoreProcess(on_lost=on_lost, worker=worker)
        self.process.load(spec)
        super().__init__([RemoteCore(self.process.address, spec.options, on_step, self.process)])

    @property
    def pid(self) -> int:
        return self.process.pid


StartProcess = Callable[..., Started]


def spec(folder: Path, options: EngineOptions = OPTIONS) -> EngineSpec:
    return EngineSpec(folder, "cpu", "float32", options, num_threads=1)


@contextmanager
def held(engine: Started) -> Iterator[None]:
    """The process stands still inside the block."""
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(engine.pid, signal.SIGCONT)


def memory_files(pid: int | str, name: str = "samples") -> set[int]:
    """The files of samples that a process has open, by their inodes."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if f"memfd:{name}" in os.readlink(fd):
                found.add(fd.stat().st_ino)
    return found


def step(known: Known, index: int, at: slice, **more: Any) -> ExtendRequest:
    """A part of a known request's audio as a step of a kept sequence."""
    request = known.request
    return ExtendRequest(
        request_id=f"step{index}",
        sequence_id="kept",
        samples=request.samples[at],
        tokens_before=request.tokens_before,
        tokens_after=request.tokens_after,
        max_new_tokens=request.max_new_tokens,
        **more,
    )
