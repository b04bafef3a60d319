"""Who runs next: first come, first served into free slots, prefill and decode taking turns.

Pure bookkeeping without torch. The engine calls it under its lock, never while a step runs.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from predictor.engine.options import EngineOptions, EngineStats, Phase
from predictor.engine.queue_limits import check_room
from predictor.engine.sequence import Limits, Sequence
from predictor.engine.utterance import Utterance
from predictor.errors import InvalidInput
from predictor.types import EngineRequest

# While sequences run and more wait than there are slots, a prefill waits until one slot in so many
# is free: many small prefills would cost the running ones more than it costs those that wait.
REFILL_SHARE = 16


@dataclass(frozen=True, slots=True)
class Step:
    """One call to the runner: these sequences, all of them with a slot."""

    phase: Phase
    sequences: tuple[Sequence, ...]


class Scheduler:
    """The waiting queue and the slots."""

    def __init__(self, options: EngineOptions, limits: Limits, num_slots: int) -> None:
        self._options = options
        self._limits = limits
        self._num_slots = num_slots
        self._free_slots = list(range(num_slots))  # a heap: low slots first, so they adjoin
        self._waiting: deque[Sequence] = deque()
        self._waiting_audio_s = 0.0
        self._running: dict[int, Sequence] = {}  # by slot
        self._by_id: dict[str, Sequence] = {}
        self._prefilled_last = False
        self._num_finished = 0
        self._num_failed = 0

    def add(
        self,
        request: EngineRequest,
        *,
        audio_s_per_s: float = 0.0,
        utterance: Utterance | None = None,
    ) -> Sequence:
        """Queue a request, or a step of a kept sequence. InvalidInput if it can never run,
        Overloaded if the queue is full.

        `audio_s_per_s`, the engine's recent speed, turns a full queue into a time to retry after.
        """
        if request.request_id in self._by_id:
            raise InvalidInput(
                f"request id {request.request_id} is in flight already",
                field="request_id",
                value=request.request_id,
                limit="unique",
            )
        sequence = Sequence(request, self._limits, self._options, utterance)
        check_room(
            self._options,
            num_waiting=len(self._waiting),
            waiting_audio_s=self._waiting_audio_s,
            new_audio_s=sequence.audio_s,
            audio_s_per_s=audio_s_per_s,
        )
        self._by_id[request.request_id] = sequence
        self._waiting.append(sequence)
        self._waiting_audio_s += sequence.audio_s
        return sequence

    def is_in_flight(self, request_id: str) -> bool:
        """It waits or runs, and was not aborted."""
        sequence = self._by_id.get(request_id)
        return sequence is not None and not sequence.aborted

    def abort(self, request_id: str) -> Sequence | None:
        """Drop a waiting sequence at once, mark a running one; None if it is not in flight.

        A running one keeps its slot until `finish`, because a step may be writing to it.
        """
        sequence = self._by_id.get(request_id)
        if sequence is None or sequence.aborted:
            return None
        sequence.aborted = True
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            self._waiting_audio_s -= sequence.audio_s
            self._forget(sequence)
        return sequence

    def release_aborted(self) -> None:
        """Free the slots of running sequences that were aborted since the last step."""
        for sequence in [s for s in self._running.values() if s.aborted]:
            self.finish(sequence)

    def schedule(self) -> Step | None:
        """The next step, or None when there is nothing to do.

        Waiting requests enter free slots before decoding goes on, since a fuller batch costs
        hardly more; but never twice in a row, so that no arrival rate can stop the running ones.
        """
        if not self._running or (not self._prefilled_last and self._is_worth_a_prefill()):
            entering = tuple(self._admit())
            if entering:
                self._prefilled_last = True
                return Step("prefill", entering)
        self._prefilled_last = False
        if not self._running:
            return None
        return Step("decode", tuple(self._running[slot] for slot in sorted(self._running)))

    def _is_worth_a_prefill(self) -> bool:
        num_free = len(self._free_slots)
        return num_free >= min(len(self._waiting), max(1, self._num_slots // REFILL_SHARE))

    def _admit(self) -> Iterator[Sequence]:
        """Move sequences from the queue into slots, as many as one prefill step takes."""
        audio_s, num_tokens = 0.0, 0
        while self._waiting and self._free_slots:
            is_first = num_tokens == 0
            audio_s += self._waiting[0].audio_s
            num_tokens += self._waiting[0].num_prompt_tokens
            fits = (
                audio_s <= self._options.max_prefill_audio_s
                and num_tokens <= self._options.max_prefill_tokens
            )
            if not (fits or is_first):
                return
            sequence = self._waiting.popleft()
            self._waiting_audio_s -= sequence.audio_s
            sequence.slot = heapq.heappop(self._free_slots)
            self._running[sequence.slot] = sequence
            yield sequence

    def finish(self, sequence: Sequence, *, failed: bool = False) -> None:
        """A running sequence has ended; its slot is free again."""
        del self._running[sequence.slot]
        heapq.heappush(self._free_slots, sequence.slot)
        sequence.slot = -1
        self._forget(sequence, failed=failed)

    def _forget(self, sequence: Sequence, *, failed: bool = False) -> None:
        del self._by_id[sequence.request.request_id]
        self._num_finished += not failed
        self._num_failed += failed

    def drop_all(self) -> list[Sequence]:
        """Empty queue and slots; returns what was in flight and not aborted."""
        dropped = list(self._by_id.values())
        for sequence in dropped:
            self._forget(sequence, failed=not sequence.aborted)
        heapq.heapify(self._free_slots)
        for slot in self._running:
            heapq.heappush(self._free_slots, slot)
        self._running.clear()
        self._waiting.clear()
        self._waiting_audio_s = 0.0
        return [sequence for sequence in dropped if not sequence.aborted]

    def stats(self) -> EngineStats:
        """Plain figures of this moment."""
        return EngineStats(
            num_waiting=len(self._waiting),
            num_running=len(self._running),
            waiting_audio_s=max(0.0, self._waiting_audio_s),
            running_audio_s=sum(s.audio_s for s in self._running.values()),
            num_slots=self._num_slots,
            max_model_len=self._limits.max_model_len,
            num_finished=self._num_finished,
            num_failed=self._num_failed,
        )
