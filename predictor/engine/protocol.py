"""What the engine asks of the part that owns the device; plain data in and out, no torch."""

from __future__ import annotations

from collections.abc import Sequence as Batch
from dataclasses import dataclass, field
from typing import Protocol

from predictor.engine.sequence import Limits, Prefilled, Sequence


@dataclass(frozen=True, slots=True)
class StepOutput:
    """For each sequence of a step, in its order: its new tokens.

    A runner may run ahead: it may return tokens past a sequence's end, which are dropped, and none
    for a sequence whose first ones are still under way.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]
    device_s: tuple[tuple[str, float], ...] = ()  # what the device took for which part of the work
    # What the prefills found out whose first tokens are among these.
    prefilled: dict[Sequence, Prefilled] = field(default_factory=dict)


class Runner(Protocol):
    """Owns weights, cache and device; called from the engine's thread only."""

    @property
    def num_slots(self) -> int: ...
    @property
    def limits(self) -> Limits: ...
    def prefill(self, sequences: Batch[Sequence]) -> StepOutput:
        """Encode audio and prompt of each sequence into its slot; its first token, unless that is
        left to `decode`."""
        ...

    def decode(self, sequences: Batch[Sequence]) -> StepOutput:
        """The next token of each sequence, or of some; whose last one is not in the cache yet."""
        ...

    def scrub(self, slots: Batch[int]) -> None:
        """Wipe slots whose contents are not numbers, before others use them."""
        ...

    def idle(self) -> bool:
        """Called while no sequence runs: do a little of what makes later steps faster or lets go
        of earlier ones; False when nothing is left to do."""
        ...

    def recover(self) -> bool:
        """After a step failed: give back memory; False when the device is beyond use."""
        ...
