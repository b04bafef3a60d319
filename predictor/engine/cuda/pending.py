"""What was started on the device and not read yet, and how long the device took for it."""

from __future__ import annotations

from collections.abc import Sequence as Batch
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from predictor.engine.sequence import Sequence


class Marks:
    """Events in the device's stream, each at the end of a named part; nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._names: list[str] = []
        self._events: list[torch.cuda.Event] = []
        self._record()

    def end_of(self, part: str) -> None:
        """The part that began with the mark before, or the making of this, ends here."""
        self._names.append(part)
        self._record()

    def _record(self) -> None:
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append(event)

    def wait(self) -> None:
        """Until the device has reached the last mark."""
        if self._on_cuda:
            self._events[-1].synchronize()

    def seconds(self) -> tuple[tuple[str, float], ...]:
        """Of each part; only after `wait`."""
        if not self._on_cuda:
            return ()
        pairs = zip(self._names, self._events, self._events[1:], strict=False)
        return tuple((name, begin.elapsed_time(end) / 1e3) for name, begin, end in pairs)


@dataclass(frozen=True, slots=True)
class Look:
    """A prefill or some decode steps, whose results arrive on the host by themselves."""

    sequences: tuple[Sequence, ...]
    members: frozenset[Sequence]
    results: Tensor  # [steps, rows, 2] float32 on the host: token ids and log-probabilities
    marks: Marks

    @classmethod
    def of(cls, sequences: Batch[Sequence], results: Tensor, marks: Marks) -> Look:
        return cls(tuple(sequences), frozenset(sequences), results, marks)

    @property
    def num_steps(self) -> int:
        return self.results.shape[0]

    def read(self) -> tuple[list[list[int]], list[list[float]]]:
        """Wait; tokens and log-probabilities of each sequence, step after step."""
        self.marks.wait()
        results = self.results.numpy()[:, : len(self.sequences)]
        return results[..., 0].T.astype(np.int64).tolist(), results[..., 1].T.tolist()


def host_results(num_steps: int, num_rows: int, device: torch.device) -> Tensor:
    """Where the device writes a look's results; pinned, so that it need not wait."""
    return torch.empty(num_steps, num_rows, 2, pin_memory=device.type == "cuda")
