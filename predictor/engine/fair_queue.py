"""Who waits, fair by seconds of audio: the pieces of one recording take turns with all others.

Packet-by-packet fair queueing (Demers, Keshav, Shenker, 1989). Each sequence has a tag: the moment
at which it would end if all requests were worked on side by side, second by second; the lowest is
next. So a short clip waits for the step that runs and not for the length of another recording, and
a piece is passed by its own length, at most, of every other request.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator

from predictor.engine.sequence import Sequence


class FairQueue:
    """Sequences that wait. Those of one request keep their order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._first: deque[Sequence] = deque()  # had their turn, and gave it up
        self._tags: dict[str, float] = {}  # of the last sequence of each group in the heap
        self._sizes: Counter[str] = Counter()  # sequences of each group in the heap
        self._now = 0.0  # seconds that each group would have had by now
        self._num_added = 0

    def __len__(self) -> int:
        return len(self._first) + len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        """All, in no order."""
        yield from self._first
        for _, _, sequence in self._heap:
            yield sequence

    def peek(self) -> Sequence:
        """Who is next."""
        return self._first[0] if self._first else self._heap[0][2]

    def append(self, sequence: Sequence) -> None:
        """A newcomer."""
        group = _group(sequence)
        tag = max(self._now, self._tags.get(group, 0.0)) + sequence.audio_s
        self._tags[group] = tag
        self._sizes[group] += 1
        heapq.heappush(self._heap, (tag, self._num_added, sequence))
        self._num_added += 1

    def appendleft(self, sequence: Sequence) -> None:
        """Back to the front."""
        self._first.appendleft(sequence)

    def popleft(self) -> Sequence:
        """Takes who is next."""
        if self._first:
            return self._first.popleft()
        _, _, sequence = heapq.heappop(self._heap)
        self._now += sequence.audio_s / len(self._sizes)
        self._forget(sequence)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """It waits no more."""
        if sequence in self._first:
            self._first.remove(sequence)
            return
        self._heap = [entry for entry in self._heap if entry[2] is not sequence]
        heapq.heapify(self._heap)
        self._forget(sequence)

    def clear(self) -> None:
        """Nobody waits."""
        for held in (self._heap, self._first, self._tags, self._sizes):
            held.clear()

    def _forget(self, sequence: Sequence) -> None:
        group = _group(sequence)
        self._sizes[group] -= 1
        if not self._sizes[group]:
            del self._sizes[group]
            del self._tags[group]


def _group(sequence: Sequence) -> str:
    """What stands before the last colon of a request's id: the caller's request."""
    group, _, own = sequence.request.request_id.rpartition(":")
    return group or own
