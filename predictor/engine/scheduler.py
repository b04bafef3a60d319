"""Who runs next: fair by seconds of audio into free slots and pages, prefill and decode in turns.

A slot is a row of the device's state; pages hold keys and values. A sequence takes the pages that
its prompt needs and more as it grows. If none is left, the youngest gives up its own and is made
anew later. Steps of kept sequences go before all others.

Pure bookkeeping without torch. The engine calls it under its lock, never while a step runs.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from predictor.engine.fair_queue import FairQueue
from predictor.engine.gathering import requests_have_gathered, steps_have_gathered
from predictor.engine.options import EngineOptions, EngineStats, Phase
from predictor.engine.pages import PagePool, PageSize
from predictor.engine.sequence import Limits, Sequence
from predictor.engine.utterance import Utterance
from predictor.errors import InvalidInput
from predictor.types import EngineRequest

# Rows of a prefill step whose logits are asked for, those of forced tokens and drafts among them;
# one sequence may have more.
MAX_CHECKS = 1536
# One slot for so many kept sequences is left free for their steps.
SEQUENCES_A_SLOT = 8
# Pages for growth stay free beside those that a newcomer takes: one for so many that run.
SEQUENCES_A_SPARE_PAGE = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One call to the runner: these sequences, all of them with a slot and the pages they need."""

    phase: Phase
    sequences: tuple[Sequence, ...]


class Scheduler:
    """The waiting queues, the slots and the pages."""

    def __init__(
        self,
        options: EngineOptions,
        limits: Limits,
        num_slots: int,
        page_size: PageSize | None = None,
    ) -> None:
        """`page_size`: None = as many pages as can ever be used."""
        self._options = options
        self._limits = limits
        self._num_slots = num_slots
        self.pool = PagePool(page_size or PageSize(num_slots, limits.max_model_len))
        # The last one that runs always gets what it needs: nobody waits for ever.
        assert self.pool.size.count * self.pool.size.tokens >= limits.max_model_len
        self._free_slots = list(range(num_slots))  # a heap: low slots first
        self._waiting = FairQueue()
        self._steps: deque[Sequence] = deque()  # of kept sequences, which go first
        self._waiting_audio_s = 0.0
        self._running: dict[int, Sequence] = {}  # by slot
        self._by_id: dict[str, Sequence] = {}
        self._resting: OrderedDict[Utterance, None] = OrderedDict()  # hold pages, have no step
        self.num_kept = 0  # sequences that stay alive
        self._prefilled_last = False
        self._num_finished = 0
        self._num_failed = 0
        self._num_preempted = 0

    def add(self, request: EngineRequest, utterance: Utterance | None = None) -> Sequence:
        """Queue a request, or a step of a kept sequence. InvalidInput if it can never run.

        How much may wait is not decided here: who is admitted is known before audio is decoded.
        """
        if request.request_id in self._by_id:
            raise InvalidInput(
                f"request id {request.request_id} is in flight already",
                field="request_id",
                value=request.request_id,
                limit="unique",
            )
        sequence = Sequence(request, self._limits, self._options, utterance)
        self._by_id[request.request_id] = sequence
        self._queue_of(sequence).append(sequence)
        self._waiting_audio_s += sequence.waiting_audio_s
        return sequence

    def _queue_of(self, sequence: Sequence) -> FairQueue | deque[Sequence]:
        return self._waiting if sequence.utterance is None else self._steps

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
            self._queue_of(sequence).remove(sequence)
            self._waiting_audio_s -= sequence.waiting_audio_s
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
        may_prefill = not self._prefilled_last and self._is_worth_a_prefill()
        if may_prefill or not self._running:
            entering = tuple(self._admit())
            if entering:
                self._prefilled_last = True
                return Step("prefill", entering)
        self._prefilled_last = False
        if not self._running:
            return None
        self._grow()
        return Step("decode", tuple(self._running[slot] for slot in sorted(self._running)))

    def _is_worth_a_prefill(self) -> bool:
        num_steps = sum(s.utterance is not None for s in self._running.values())
        num_free = len(self._free_slots) - self._num_reserved
        return steps_have_gathered(self._steps, num_steps) or requests_have_gathered(
            self._waiting, len(self._waiting), len(self._running), num_free, self._num_slots
        )

    @property
    def _num_reserved(self) -> int:
        """Slots that only steps of kept sequences may take."""
        return min(self._num_slots // 2, -(-self.num_kept // SEQUENCES_A_SLOT))

    def _admit(self) -> Iterator[Sequence]:
        """Move sequences from the queues into slots, as many as one prefill step takes."""
        audio_s, num_tokens, num_checks = 0.0, 0, 0
        while (sequence := self._next_waiting()) is not None:
            is_first = num_tokens == 0
            num_cached = self._num_cached(sequence)
            audio_s += sequence.prefill_audio_s(num_cached)
            num_tokens += sequence.reach - num_cached
            num_checks += sequence.num_checks
            fits = (
                num_checks <= MAX_CHECKS
                and audio_s <= self._options.max_prefill_audio_s
                and num_tokens <= self._options.max_prefill_tokens
            )
            if not (fits or is_first) or not self._take_pages(sequence):
                return
            self._queue_of(sequence).popleft()
            self._waiting_audio_s -= sequence.waiting_audio_s
            sequence.slot = heapq.heappop(self._free_slots)
            self._running[sequence.slot] = sequence
            yield sequence

    def _next_waiting(self) -> Sequence | None:
        """Who enters next, if a slot is free."""
        if self._steps and self._free_slots:
            return self._steps[0]
        if self._waiting and len(self._free_slots) > self._num_reserved:
            return self._waiting.peek()
        return None

    def _num_cached(self, sequence: Sequence) -> int:
        """Tokens of a waiting sequence that it will find in the cache."""
        if sequence.utterance is not None and sequence.utterance.num_cached:
            return sequence.utterance.num_cached
        return self.pool.prefixes.num_cached(sequence.request.tokens_before)

    def _take_pages(self, sequence: Sequence) -> bool:
        """Give an entering sequence its pages, what is cached already among them; False = there
        are too few, it has to wait."""
        utterance, prefixes = sequence.utterance, self.pool.prefixes
        before = sequence.request.tokens_before
        if utterance is not None and utterance.num_cached:
            self._resting.pop(utterance, None)
            sequence.pages, sequence.num_cached = utterance.pages, utterance.num_cached
            utterance.pages, utterance.num_cached = [], 0
        else:
            sequence.pages = prefixes.share(before)
            sequence.num_cached = len(sequence.pages) * self.pool.size.tokens
        missing = max(0, self._num_pages(sequence) - len(sequence.pages))
        if not self._has_room(sequence, missing):
            self._put_back(sequence)
            return False
        sequence.pages += self.pool.take(missing)
        if not sequence.num_cached:
            prefixes.keep(before, sequence.pages)
        return True

    def _has_room(self, sequence: Sequence, missing: int) -> bool:
        if sequence.utterance is None and self._running:
            return self.pool.has(missing + len(self._running) // SEQUENCES_A_SPARE_PAGE)
        while not self._free_pages(missing):
            youngest = max(self._running.values(), key=_age)
            if youngest.utterance is not None:
                return False
            self._preempt(youngest)
        return True

    def _put_back(self, sequence: Sequence) -> None:
        utterance = sequence.utterance
        if utterance is None:
            self.pool.release(sequence.pages)
        else:
            utterance.pages, utterance.num_cached = sequence.pages, sequence.num_cached
            self._resting[utterance] = None
        sequence.pages, sequence.num_cached = [], 0

    def _num_pages(self, sequence: Sequence) -> int:
        """Pages for all that is known of a sequence and what its device may be ahead."""
        size = self.pool.size
        return size.pages_for(min(sequence.reach + size.ahead, sequence.most_tokens))

    def _free_pages(self, count: int) -> bool:
        """Make `count` pages free at the cost of sequences that rest; False if they do not do."""
        while not self.pool.has(count) and self._resting:
            utterance, _ = self._resting.popitem(last=False)
            self._drop_pages(utterance)
        return self.pool.has(count)

    def _grow(self) -> None:
        """Pages for what the next step writes; the youngest give up theirs if none is left."""
        for sequence in sorted(self._running.values(), key=_age):
            if sequence.slot < 0:
                continue
            while (missing := self._num_pages(sequence) - len(sequence.pages)) > 0:
                if self._free_pages(missing):
                    sequence.pages += self.pool.take(missing)
                    continue
                youngest = max(self._running.values(), key=_age)
                self._preempt(youngest)
                if youngest is sequence:
                    break

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the front of its queue, to be prefilled again with its answer so far."""
        self._leave(sequence)
        sequence.begin_again()
        sequence.num_preempted += 1
        self._num_preempted += 1
        self._queue_of(sequence).appendleft(sequence)
        self._waiting_audio_s += sequence.waiting_audio_s

    def begin_again(self, sequences: tuple[Sequence, ...]) -> None:
        """The prefill of these failed: nothing that it wrote is to be trusted, by nobody."""
        self.pool.prefixes.clear()
        for sequence in sequences:
            sequence.begin_again()

    def finish(self, sequence: Sequence, *, failed: bool = False) -> None:
        """A running sequence has ended; its slot and pages are free again, but for the base of a
        sequence that stays alive."""
        utterance = sequence.utterance
        if utterance is not None and not failed and not utterance.is_closed:
            self._rest(sequence, utterance)
        self._leave(sequence)
        self._forget(sequence, failed=failed)

    def _rest(self, sequence: Sequence, utterance: Utterance) -> None:
        """Leave the base with the utterance."""
        num_cached = sequence.num_base_tokens if sequence.is_prefilled else sequence.num_cached
        count = self.pool.size.pages_for(num_cached)
        utterance.pages, sequence.pages = sequence.pages[:count], sequence.pages[count:]
        utterance.num_cached = num_cached
        self._resting[utterance] = None

    def _leave(self, sequence: Sequence) -> None:
        del self._running[sequence.slot]
        heapq.heappush(self._free_slots, sequence.slot)
        sequence.slot = -1
        self.pool.release(sequence.pages)
        sequence.pages = []

    def close(self, utterance: Utterance) -> None:
        """A kept sequence has ended, or begins anew: give up its base."""
        utterance.is_closed = True
        self._resting.pop(utterance, None)
        self._drop_pages(utterance)

    def _drop_pages(self, utterance: Utterance) -> None:
        self.pool.release(utterance.pages)
        utterance.pages, utterance.num_cached = [], 0

    def _forget(self, sequence: Sequence, *, failed: bool = False) -> None:
        del self._by_id[sequence.request.request_id]
        self._num_finished += not failed
        self._num_failed += failed

    def drop_all(self) -> list[Sequence]:
        """Empty queues and slots; returns what was in flight and not aborted."""
        dropped = list(self._by_id.values())
        for sequence in list(self._running.values()):
            self._leave(sequence)
        for sequence in dropped:
            self._forget(sequence, failed=not sequence.aborted)
        self._waiting.clear()
        self._steps.clear()
        self._waiting_audio_s = 0.0
        return [sequence for sequence in dropped if not sequence.aborted]

    def stats(self) -> EngineStats:
        """Plain figures of this moment."""
        return EngineStats(
            num_waiting=len(self._waiting) + len(self._steps),
            num_running=len(self._running),
            waiting_audio_s=max(0.0, self._waiting_audio_s),
            running_audio_s=sum(s.audio_s for s in self._running.values()),
            num_slots=self._num_slots,
            max_model_len=self._limits.max_model_len,
            num_finished=self._num_finished,
            num_failed=self._num_failed,
            num_pages=self.pool.size.count,
            num_free_pages=self.pool.num_free,
            num_kept=self.num_kept,
            num_preempted=self._num_preempted,
        )


def _age(sequence: Sequence) -> tuple[bool, float]:
    """Steps of kept sequences count as older than all others, then who came first."""
    return sequence.utterance is None, sequence.created_s
