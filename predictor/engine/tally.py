"""What a core has done so far, for metrics; and how fast it is while it works."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from predictor.engine.options import EngineStats
from predictor.engine.sequence import Prefilled, Sequence

MEMORY_S: Final = 60.0  # of busy time: what was done before counts less and less
LEAST_BUSY_S: Final = 5.0  # before this nothing is said of the speed


class Speed:
    """Seconds of audio for each second of work: an exponentially weighted mean over busy time.

    Idle time neither counts nor makes anything forgotten.
    """

    def __init__(self, memory_s: float = MEMORY_S, least_busy_s: float = LEAST_BUSY_S) -> None:
        self._memory_s = memory_s
        self._least_busy_s = least_busy_s
        self._busy_s = 0.0  # all of it
        self._work_s = 0.0  # that is remembered
        self._audio_s = 0.0  # done in that

    def worked(self, seconds: float) -> None:
        """So long something ran."""
        kept = math.exp(-seconds / self._memory_s)
        self._audio_s *= kept
        self._work_s = self._work_s * kept + self._memory_s * (1.0 - kept)
        self._busy_s += seconds

    def done(self, audio_s: float) -> None:
        """A sequence of so much audio has its answer."""
        self._audio_s += audio_s

    @property
    def audio_per_s(self) -> float:
        """0 until enough was done."""
        return self._audio_s / self._work_s if self._busy_s >= self._least_busy_s else 0.0


class Tally:
    """One core's; guarded by its lock."""

    def __init__(self, page_tokens: int) -> None:
        self._page_tokens = page_tokens
        self.speed = Speed()
        self._prefix_hits = 0
        self._prefix_misses = 0
        self._draft_tokens = 0
        self._draft_accepted = 0

    def prefilled(self, sequence: Sequence, found: Prefilled) -> None:
        """Called before the sequence takes over what its prefill found out."""
        is_first = not sequence.tokens
        if is_first:
            self._draft_tokens += len(sequence.draft)
            self._draft_accepted += found.num_accepted
        has_prefix = len(sequence.request.tokens_before) >= self._page_tokens
        if is_first and has_prefix and sequence.utterance is None:
            self._prefix_hits += sequence.num_cached > 0
            self._prefix_misses += sequence.num_cached == 0

    def worked(self, seconds: float, sequences: Iterable[Sequence]) -> None:
        """On a step of these. Live steps have their part of it, since their audio does not count:
        else a replica that mostly listens would seem to be slow."""
        counted = [sequence.utterance is None for sequence in sequences]
        if any(counted):
            self.speed.worked(seconds * sum(counted) / len(counted))

    def finished(self, sequence: Sequence) -> None:
        """It has its whole answer. Steps of kept sequences hear the same audio again and again."""
        if sequence.utterance is None:
            self.speed.done(sequence.audio_s)

    def added_to(self, stats: EngineStats, num_unprepared: int) -> EngineStats:
        """The scheduler's figures and these."""
        return replace(
            stats,
            audio_per_busy_s=self.speed.audio_per_s,
            num_prefix_hits=self._prefix_hits,
            num_prefix_misses=self._prefix_misses,
            num_draft_tokens=self._draft_tokens,
            num_draft_accepted=self._draft_accepted,
            num_unprepared=num_unprepared,
        )
