"""How much audio makes a replica full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much audio a replica may hold before it counts as full."""

    max_held_audio_s: float  # before it refuses more
    full_load_s: float  # that working it off may take

    def audio_s(self, speeds: Sequence[float]) -> float:
        """`speeds`: seconds of audio a second of work, of each engine; 0 where it is not known."""
        if not all(speeds):
            return self.max_held_audio_s
        return min(self.max_held_audio_s, self.full_load_s * sum(speeds))
