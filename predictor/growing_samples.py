"""Audio that comes piece by piece and is looked at whole, again and again."""

from __future__ import annotations

import numpy as np

from predictor.types import Samples


class GrowingSamples:
    """float32 samples; what was handed out stays valid and is not copied."""

    def __init__(self, least: int) -> None:
        """Room for `least` samples at first."""
        self._least = least
        self._buffer = np.zeros(0, np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def all(self) -> Samples:
        """[n] all of them."""
        return self._buffer[: self._count]

    def append(self, samples: Samples) -> None:
        """Add what is new at the end."""
        wanted = self._count + len(samples)
        if wanted > len(self._buffer):
            grown = np.empty(max(wanted, 2 * len(self._buffer), self._least), np.float32)
            grown[: self._count] = self.all
            self._buffer = grown
        self._buffer[self._count : wanted] = samples
        self._count = wanted

    def cut(self, count: int) -> None:
        """Forget all behind the first `count`; what was handed out of that changes with what comes
        in its place."""
        self._count = min(self._count, count)
