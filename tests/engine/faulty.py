"""A real runner with a handle on its steps: it can be held up, made to fail, and watched."""

from __future__ import annotations

import threading
from collections import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from predictor.engine.pages import PageSize
from predictor.engine.protocol import StepOutput
from predictor.engine.runner import TorchRunner
from predictor.engine.sequence import Batch, Limits

Ids = list[str]


@dataclass
class FaultyRunner:
    """Passes everything on to `inner`, after `before` has had its say."""

    inner: TorchRunner
    before: Callable[[str, Ids], None] = lambda phase, ids: None
    recovers: bool = True
    steps: list[tuple[str, Ids]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # ids whose probabilities are not numbers
    scrubbed: list[int] = field(default_factory=list)  # pages

    @property
    def num_slots(self) -> int:
        return self.inner.num_slots

    @property
    def limits(self) -> Limits:
        return self.inner.limits

    @property
    def page_size(self) -> PageSize:
        return self.inner.page_size

    def in_thread(self) -> AbstractContextManager[object]:
        return self.inner.in_thread()

    def prefill(self, sequences: Batch) -> StepOutput:
        return self._run("prefill", self.inner.prefill, sequences)

    def decode(self, sequences: Batch) -> StepOutput:
        return self._run("decode", self.inner.decode, sequences)

    def _run(
        self,
        phase: str,
        run: Callable[[Batch], StepOutput],
        sequences: Batch,
    ) -> StepOutput:
        ids = [s.request.request_id for s in sequences]
        self.steps.append((phase, ids))
        self.before(phase, ids)
        output = run(sequences)
        for i, request_id in enumerate(ids):
            if request_id in self.broken:
                output.logprobs[i][0] = float("nan")
        return output

    def scrub(self, pages: abc.Sequence[int]) -> None:
        self.scrubbed += pages
        self.inner.scrub(pages)

    def let_go(self) -> None:
        self.inner.let_go()

    def idle(self) -> bool:
        return self.inner.idle()

    def between_steps(self) -> None:
        self.inner.between_steps()

    def recover(self) -> bool:
        return self.recovers and self.inner.recover()


class Gate:
    """Holds the engine's thread inside a step until it is opened."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, phase: str, ids: Ids) -> None:
        if phase == self._phase and not self._open.is_set():
            self.reached.set()
            assert self._open.wait(30), "nobody opened the gate"

    def open(self) -> None:
        self._open.set()
