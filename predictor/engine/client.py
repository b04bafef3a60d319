"""What the server holds of its engine: requests in, async streams of tokens out.

One class over any number of cores, wherever they run: a thread here, or processes that drive a
device each. A request goes to the core that holds the least audio.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from predictor.engine.kept import step_in_flight
from predictor.engine.options import EngineStats
from predictor.engine.protocol import Core, Emission
from predictor.engine.stream import TokenStream, running_loop
from predictor.errors import AsrError, InvalidInput, Overloaded
from predictor.types import SAMPLE_RATE_HZ, EngineRequest, ExtendRequest, TokenChunk


@dataclass(slots=True)
class _InFlight:
    """One request, its core and its reader."""

    stream: TokenStream
    place: int  # of its core
    audio_s: float


@dataclass(frozen=True, slots=True)
class _Kept:
    """A sequence that stays alive."""

    place: int  # of its core
    request_id: str  # of its newest step


class EngineClient:
    """`submit` belongs to event loops, everything else to any thread."""

    def __init__(self, cores: Sequence[Core]) -> None:
        self._cores = tuple(cores)
        self._lock = threading.Lock()  # of the three below
        self._in_flight: dict[str, _InFlight] = {}
        self._kept: dict[str, _Kept] = {}  # sequences that stay alive
        self._held_audio_s = [0.0] * len(self._cores)  # sent from here and not done, by core

    @property
    def cores(self) -> tuple[Core, ...]:
        """One for each device."""
        return self._cores

    def start(self) -> None:
        """Start to take requests; once only."""
        for core in self._cores:
            core.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Release the cores; streams in flight raise NotReady."""
        for core in self._cores:
            core.stop(timeout_s)

    def read_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let cores of other processes be read by this event loop, which waits for their tokens."""
        for core in self._cores:
            core.read_in(loop)

    def is_alive(self) -> bool:
        """Whether every core can still work, or will again by itself."""
        return all(core.is_alive() for core in self._cores)

    def is_serving(self) -> bool:
        """Whether some core would take a request now."""
        return any(core.is_serving() for core in self._cores)

    def stats(self) -> EngineStats:
        """Plain figures of all cores together."""
        return _total([core.stats() for core in self._cores])

    def submit(self, request: EngineRequest) -> TokenStream:
        """Queue a request from the event loop's thread; what comes of it comes by the stream.

        Raises NotReady at once. The stream raises InvalidInput for what can never run, NotReady
        when the engine stops, InternalError when the request or the engine fails.
        """
        return self._send(request, lambda core: core.submit(request, self._receive))

    def extend(self, request: ExtendRequest) -> TokenStream:
        """Queue one step of a kept sequence, which its first step makes; as `submit`.

        All steps go to one core, until `close`. The stream raises Overloaded when too much is kept.
        """
        return self._send(
            request, lambda core: core.extend(request, self._receive), request.sequence_id
        )

    def truncate(self, sequence_id: str, num_samples: int) -> None:
        """Take a kept sequence back to its first `num_samples` samples: the next step goes on from
        there, and costs what is new. Nothing happens to one that is not longer, or not known.

        Raises InvalidInput while a step of it is in flight.
        """
        if num_samples < 0:
            raise ValueError(f"num_samples is {num_samples}")
        with self._lock:
            kept = self._kept.get(sequence_id)
            if kept is not None and kept.request_id in self._in_flight:
                raise step_in_flight(sequence_id)
        if kept is not None:
            self._cores[kept.place].truncate(sequence_id, num_samples)

    def close(self, sequence_id: str) -> None:
        """Forget a kept sequence; a step of it that is under way is aborted."""
        with self._lock:
            kept = self._kept.pop(sequence_id, None)
        if kept is not None:
            self._cores[kept.place].close(sequence_id)

    def _send(
        self,
        request: EngineRequest | ExtendRequest,
        send: Callable[[Core], None],
        sequence_id: str | None = None,
    ) -> TokenStream:
        request_id = request.request_id
        stream = TokenStream(request_id, self._leave)
        refused: set[int] = set()
        while True:
            try:
                place, before = self._enter(stream, request, sequence_id, refused)
            except InvalidInput as error:
                stream.push(error)
                return stream
            try:
                send(self._cores[place])
            except (InvalidInput, Overloaded) as error:
                self._forget(request_id)
                stream.push(error)
            except AsrError:
                self._take_back(request_id, sequence_id, before)
                refused.add(place)  # it ends, or starts again; others may do
                if before is not None or len(refused) == len(self._cores):
                    raise
                continue
            return stream

    def _enter(
        self,
        stream: TokenStream,
        request: EngineRequest | ExtendRequest,
        sequence_id: str | None,
        refused: set[int],
    ) -> tuple[int, _Kept | None]:
        """Note where a request goes; its core, and what was known of its sequence before.

        Raises InvalidInput for an id that is in flight.
        """
        audio_s, request_id = len(request.samples) / SAMPLE_RATE_HZ, request.request_id
        with self._lock:
            if request_id in self._in_flight:
                raise _in_flight_already(request_id)
            before = None if sequence_id is None else self._kept.get(sequence_id)
            place = self._least_loaded(refused) if before is None else before.place
            if sequence_id is not None:
                is_busy = before is not None and before.request_id in self._in_flight
                if before is None or not is_busy:  # else the core refuses this step
                    self._kept[sequence_id] = _Kept(place, request_id)
            self._in_flight[request_id] = _InFlight(stream, place, audio_s)
            self._held_audio_s[place] += audio_s
        return place, before

    def _take_back(self, request_id: str, sequence_id: str | None, before: _Kept | None) -> None:
        with self._lock:
            self._remove(request_id)
            if sequence_id is not None and before is None:
                self._kept.pop(sequence_id, None)
            elif sequence_id is not None and before is not None:
                self._kept[sequence_id] = before

    def abort(self, request_id: str) -> None:
        """End a request with finish "abort" and free its place; unknown ids are ignored."""
        with self._lock:
            found = self._in_flight.get(request_id)
        if found is not None:
            self._cores[found.place].abort(request_id)

    def _leave(self, request_id: str) -> None:
        """Nobody reads its stream any more."""
        found = self._forget(request_id)
        if found is not None:
            self._cores[found.place].abort(request_id)

    def _least_loaded(self, refused: set[int]) -> int:
        """The core to send to, which has not refused already; the lock is held."""
        left = [i for i in range(len(self._cores)) if i not in refused]
        serving = [i for i in left if self._cores[i].is_serving()]
        if not serving:
            return left[0]
        if len(serving) == 1:
            return serving[0]
        return min(serving, key=self._load)

    def _load(self, place: int) -> float:
        """Seconds of audio that a core holds: what it says, which may be old, or what we sent."""
        stats = self._cores[place].stats()
        return max(self._held_audio_s[place], stats.waiting_audio_s + stats.running_audio_s)

    def _forget(self, request_id: str) -> _InFlight | None:
        with self._lock:
            return self._remove(request_id)

    def _remove(self, request_id: str) -> _InFlight | None:
        """The lock is held."""
        found = self._in_flight.pop(request_id, None)
        if found is not None:
            self._held_audio_s[found.place] -= found.audio_s
        return found

    def _receive(self, emissions: Sequence[Emission]) -> None:
        """Called by the cores' threads or by a loop: hand items over, with one wake-up a loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[TokenStream, TokenChunk | AsrError]]]
        by_loop = defaultdict(list)
        with self._lock:
            for request_id, item in emissions:
                found = self._in_flight.get(request_id)
                if found is None:  # its reader has left
                    continue
                if isinstance(item, AsrError) or item.finish is not None:
                    self._remove(request_id)
                by_loop[found.stream.loop].append((found.stream, item))
        here = running_loop()
        for loop, news in by_loop.items():
            if loop is here:
                _push_all(news)
                continue
            try:
                loop.call_soon_threadsafe(_push_all, news)
            except RuntimeError:  # the loop is closed: nobody is left to listen
                for stream, _ in news:
                    self._leave(stream.request_id)


def _push_all(news: Sequence[tuple[TokenStream, TokenChunk | AsrError]]) -> None:
    for stream, item in news:
        stream.push(item)


def _in_flight_already(request_id: str) -> InvalidInput:
    return InvalidInput(
        f"request id {request_id} is in flight already",
        field="request_id",
        value=request_id,
        limit="unique",
    )


def _total(parts: Sequence[EngineStats]) -> EngineStats:
    """The sum of what can be added; a length is that of the shortest."""
    first = parts[0]
    if len(parts) == 1:
        return first
    names = [f.name for f in fields(first) if f.name != "max_model_len"]
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    return replace(first, **sums, max_model_len=min(part.max_model_len for part in parts))
