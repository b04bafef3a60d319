"""The seams of the engine: what a core asks of its device, and what a client asks of a core.

Plain data in and out, no torch.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from predictor.engine.options import EngineStats
from predictor.engine.pages import PageSize
from predictor.engine.sequence import Batch, Limits, Prefilled, Sequence
from predictor.errors import AsrError
from predictor.types import EngineRequest, ExtendRequest, TokenChunk


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
    @property
    def page_size(self) -> PageSize: ...

    def in_thread(self) -> AbstractContextManager[object]:
        """What the engine's thread is in, from its start to its end."""
        ...

    def prefill(self, sequences: Batch) -> StepOutput:
        """Encode audio and prompt of each sequence into its pages, behind what is cached; its first
        token and those of its draft that hold, unless that is left to `decode`."""
        ...

    def decode(self, sequences: Batch) -> StepOutput:
        """The next token of each sequence, whose last one is not in the cache yet."""
        ...

    def scrub(self, pages: abc.Sequence[int]) -> None:
        """Wipe pages whose contents are not numbers, before others use them."""
        ...

    def let_go(self) -> None:
        """Called as soon as no sequence runs: forget those that ran."""
        ...

    def idle(self) -> bool:
        """Called after that, while no sequence runs: do a little of what makes later steps faster;
        False when nothing is left to do."""
        ...

    def between_steps(self) -> None:
        """Called while sequences run: make one thing that the last steps missed, if any."""
        ...

    def recover(self) -> bool:
        """After a step failed: give back memory; False when the device is beyond use."""
        ...


Emission: TypeAlias = tuple[str, TokenChunk | AsrError]  # a request's id, and what is new for it
# Takes what a step gave to requests; an error ends its request. Called by a core's threads: it must
# be quick, and must not raise.
Receive: TypeAlias = Callable[[abc.Sequence[Emission]], None]


class Core(Protocol):
    """An engine on one device, here or in another process; any thread may call it."""

    @property
    def device(self) -> str:
        """Where it runs, such as "cuda:0"."""
        ...

    @property
    def limits(self) -> Limits:
        """What any request must fit in."""
        ...

    def start(self) -> None:
        """Once only."""
        ...

    def read_in(self, loop: AbstractEventLoop) -> None:
        """Where tokens come from another process, let this event loop read them."""
        ...

    def stop(self, timeout_s: float = 10.0) -> None:
        """Requests in flight get NotReady."""
        ...

    def is_alive(self) -> bool:
        """False when nothing but a new start helps."""
        ...

    def is_serving(self) -> bool:
        """Whether a request would be taken now."""
        ...

    def stats(self) -> EngineStats:
        """Plain figures of this moment, or of a moment ago."""
        ...

    def submit(self, request: EngineRequest, receive: Receive) -> None:
        """Queue a request. Raises InvalidInput or NotReady, or hands them to `receive`."""
        ...

    def extend(self, request: ExtendRequest, receive: Receive) -> None:
        """Queue one step of a kept sequence. Raises Overloaded too, or hands it to `receive`."""
        ...

    def truncate(self, sequence_id: str, num_samples: int) -> None:
        """A kept sequence back to its first samples. No step of it may be in flight."""
        ...

    def close(self, sequence_id: str) -> None:
        """Forget a kept sequence; a step of it that is under way is aborted."""
        ...

    def abort(self, request_id: str) -> None:
        """End a request with finish "abort"; unknown ids are ignored."""
        ...
