"""What was started on the device and not read yet, and how long the device took for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from predictor.engine.prompts import PromptLayout, prefilled, verified
from predictor.engine.sequence import Batch, Prefilled, Sequence


class StepTimer:
    """Events in the device's stream, each at the end of a named part; nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._names: list[str] = []
        self._events: list[torch.cuda.Event] = []
        self._record()

    def end_of(self, part: str) -> None:
        """The part that began with the previous event, or the making of this, ends here."""
        self._names.append(part)
        self._record()

    def _record(self) -> None:
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append(event)

    def wait(self) -> None:
        """Until the device has reached the last event."""
        if self._on_cuda:
            self._events[-1].synchronize()

    def seconds(self) -> tuple[tuple[str, float], ...]:
        """Of each part; only after `wait`."""
        if not self._on_cuda:
            return ()
        pairs = zip(self._names, self._events, self._events[1:], strict=False)
        return tuple((name, begin.elapsed_time(end) / 1e3) for name, begin, end in pairs)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a pending step brought for one sequence."""

    sequence: Sequence
    tokens: list[int]
    logprobs: list[float]
    prefilled: Prefilled | None = None


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A prefill or some decode steps, whose results arrive on the host by themselves."""

    sequences: tuple[Sequence, ...]
    members: frozenset[Sequence]
    starts: tuple[int, ...]  # how often each had been preempted before
    results: Tensor  # on the host; see below
    timer: StepTimer

    @classmethod
    def of(cls, sequences: Batch, results: Tensor, timer: StepTimer) -> PendingStep:
        """Decode steps; results [steps, rows, 2] float32: token ids and log-probabilities."""
        return cls(*_identity(sequences), results, timer)

    @property
    def num_steps(self) -> int:
        return self.results.shape[0]

    def read(self) -> Iterator[Arrived]:
        """Wait; what each sequence got that was not preempted meanwhile."""
        self.timer.wait()
        for arrived, start in zip(self._read(), self.starts, strict=True):
            if arrived.sequence.num_preempted == start:
                yield arrived

    def _read(self) -> Iterator[Arrived]:
        results = self.results.numpy()[:, : len(self.sequences)]
        tokens, logprobs = results[..., 0].T.astype(np.int64).tolist(), results[..., 1].T.tolist()
        return map(Arrived, self.sequences, tokens, logprobs)


@dataclass(frozen=True, slots=True)
class PendingPrefill(PendingStep):
    """Its results are [1, W, 3] float32 as `verify.settle` makes them."""

    layout: PromptLayout
    loudest: Tensor | None  # [stretches] on the host; None where nobody asks for it
    num_stretches: tuple[int, ...]  # of each sequence

    @classmethod
    def start(
        cls,
        sequences: Batch,
        layout: PromptLayout,
        results: Tensor,
        loudest: Tensor,
        num_stretches: tuple[int, ...],
        timer: StepTimer,
    ) -> PendingPrefill:
        """Let results and loudest bins, which are on the device, come to the host."""
        pinned = results.device.type == "cuda"
        on_host = torch.empty(1, len(layout.wanted), 3, pin_memory=pinned)
        on_host[0].copy_(results[: len(layout.wanted)], non_blocking=True)
        heard = None
        if sum(num_stretches) > 0 and any(s.utterance is not None for s in sequences):
            heard = torch.empty(sum(num_stretches), pin_memory=pinned)
            heard.copy_(loudest[: len(heard)], non_blocking=True)
        timer.end_of("prefill")
        return cls(*_identity(sequences), on_host, timer, layout, heard, num_stretches)

    def _read(self) -> Iterator[Arrived]:
        tokens, logprobs, given = self.results.numpy()[0].T.tolist()
        ids, values, found = verified(self.layout, [int(t) for t in tokens], logprobs, given)
        loudest: list[list[float]] = [[] for _ in self.sequences]
        if self.loudest is not None:
            heard = iter(self.loudest.tolist())
            loudest = [[next(heard) for _ in range(count)] for count in self.num_stretches]
        return map(Arrived, self.sequences, ids, values, prefilled(found, loudest))


def _identity(
    sequences: Batch,
) -> tuple[tuple[Sequence, ...], frozenset[Sequence], tuple[int, ...]]:
    return tuple(sequences), frozenset(sequences), tuple(s.num_preempted for s in sequences)


def host_results(num_steps: int, num_rows: int, device: torch.device) -> Tensor:
    """Where the device writes the results of decode steps; pinned, so that it need not wait."""
    return torch.empty(num_steps, num_rows, 2, pin_memory=device.type == "cuda")
