"""The server's books of what the engine's process holds: who waits, who runs, for whom.

They are kept from what was sent and what came back, so that a full queue is refused at once and
figures cost no question to the other process. A request counts as waiting until its first token
has come, a little longer than over there; so what fits here fits there.
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor.engine.link.wire import Loaded
from predictor.engine.options import EngineOptions, EngineStats
from predictor.engine.queue_limits import check_room
from predictor.engine.sequence import Sequence
from predictor.engine.speed import Speed
from predictor.engine.stream import Sink
from predictor.errors import AsrError, InvalidInput
from predictor.types import EngineRequest, TokenChunk

_NUMBERS = 1 << 32  # after which numbers of requests start again


@dataclass(slots=True)
class Entry:
    """One request in flight."""

    number: int
    sequence: Sequence
    sink: Sink
    has_started: bool = False


class Ledger:
    """Not thread-safe: its owner holds a lock around every call."""

    def __init__(self, options: EngineOptions, loaded: Loaded) -> None:
        self._options = options
        self._loaded = loaded
        self._by_number: dict[int, Entry] = {}
        self._by_id: dict[str, Entry] = {}
        self._num_waiting = 0
        self._waiting_audio_s = 0.0
        self._running_audio_s = 0.0
        self._last_number = 0
        self._num_finished = 0
        self._num_failed = 0
        self._speed = Speed()

    def add(self, request: EngineRequest, sink: Sink) -> Entry:
        """Enter a request. InvalidInput if it can never run, Overloaded if the queue is full."""
        if request.request_id in self._by_id:
            raise InvalidInput(
                f"request id {request.request_id} is in flight already",
                field="request_id",
                value=request.request_id,
                limit="unique",
            )
        sequence = Sequence(request, self._loaded.limits, self._options)
        check_room(
            self._options,
            num_waiting=self._num_waiting,
            waiting_audio_s=self._waiting_audio_s,
            new_audio_s=sequence.audio_s,
            audio_s_per_s=self._speed.audio_s_per_s,
        )
        self._last_number = (self._last_number + 1) % _NUMBERS
        entry = Entry(self._last_number, sequence, sink)
        self._by_number[entry.number] = self._by_id[request.request_id] = entry
        self._num_waiting += 1
        self._waiting_audio_s += sequence.audio_s
        return entry

    def take(self, number: int, item: TokenChunk | AsrError) -> Sink | None:
        """Enter what came for a request; the sink it is for, None if that has left."""
        entry = self._by_number.get(number)
        if entry is None:
            return None
        if isinstance(item, AsrError):
            self._remove(entry, failed=True)
        elif item.finish is not None:
            self._remove(entry)
            self._speed.add(audio_s=entry.sequence.audio_s, seconds=0.0)
        elif not entry.has_started:
            self._stop_waiting(entry)
            entry.has_started = True
            self._running_audio_s += entry.sequence.audio_s
        return entry.sink

    def add_step(self, seconds: float) -> None:
        """The device was busy for so long."""
        self._speed.add(audio_s=0.0, seconds=seconds)

    def abort(self, request_id: str) -> Entry | None:
        """Strike a request out; None if it is not in flight."""
        entry = self._by_id.get(request_id)
        if entry is not None:
            self._remove(entry)
        return entry

    def drop_all(self) -> list[Entry]:
        """Empty the books; returns what was in flight."""
        dropped = list(self._by_number.values())
        for entry in dropped:
            self._remove(entry, failed=True)
        return dropped

    def _remove(self, entry: Entry, *, failed: bool = False) -> None:
        del self._by_number[entry.number]
        del self._by_id[entry.sequence.request.request_id]
        if entry.has_started:
            self._running_audio_s -= entry.sequence.audio_s
        else:
            self._stop_waiting(entry)
        self._num_finished += not failed
        self._num_failed += failed

    def _stop_waiting(self, entry: Entry) -> None:
        self._num_waiting -= 1
        self._waiting_audio_s -= entry.sequence.audio_s

    def stats(self) -> EngineStats:
        """Plain figures of this moment."""
        return EngineStats(
            num_waiting=self._num_waiting,
            num_running=len(self._by_number) - self._num_waiting,
            waiting_audio_s=max(0.0, self._waiting_audio_s),
            running_audio_s=max(0.0, self._running_audio_s),
            num_slots=self._loaded.num_slots,
            max_model_len=self._loaded.limits.max_model_len,
            num_finished=self._num_finished,
            num_failed=self._num_failed,
        )
