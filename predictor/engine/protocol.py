"""What the engine asks of the part that owns the device; plain data in and out, no torch."""

from __future__ import annotations

from collections.abc import Sequence as Batch
from dataclasses import dataclass
from typing import Protocol

from predictor.engine.sequence import Limits, Sequence


@dataclass(frozen=True, slots=True)
class StepOutput:
    """For each sequence of a step, in its order: one or more new tokens.

    A runner may run ahead and return tokens past a sequence's end; they are dropped.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]


class Runner(Protocol):
    """Owns weights, cache and device; called from the engine's thread only."""

    @property
    def num_slots(self) -> int: ...
    @property
    def limits(self) -> Limits: ...
    def prefill(self, sequences: Batch[Sequence]) -> StepOutput:
        """Encode audio and prompt of each sequence into its slot; its first token."""
        ...

    def decode(self, sequences: Batch[Sequence]) -> StepOutput:
        """The next token of each sequence, whose last one is not in the cache yet."""
        ...

    def scrub(self, slots: Batch[int]) -> None:
        """Wipe slots whose contents are not numbers, before others use them."""
        ...

    def recover(self) -> bool:
        """After a step failed: give back memory; False when the device is beyond use."""
        ...
