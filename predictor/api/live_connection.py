"""One live connection, whatever its protocol: read, work and end beside each other.

What was read waits in a queue bounded in bytes; when it is full, reading stops, and so, through
TCP, does the client. All work on the session is done by one task, in order.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from predictor.errors import InvalidInput
from predictor.live.hub import LiveHub

MAX_QUEUED_BYTES: Final = 4 << 20  # of audio and events; 43 s of 48 kHz PCM, 87 s of 24 kHz
_ITEM_BYTES: Final = 1024  # what a message costs here, were it empty
WARN_S: Final = 30.0  # before the longest time a session may take
_MAX_TOKEN_CHARS: Final = 8192
_MAX_RESUMED_CHARS: Final = 300

Ending = Literal["left", "done", "shutdown", "expired"]
Work = Callable[[], Awaitable[None]]


class WorkQueue:
    """What was read and not worked on yet; `put` waits while it is full. One task puts, and one
    works; tens of thousands of messages a second pass through, so nothing here locks."""

    def __init__(self, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._items: deque[tuple[Work | None, int]] = deque()
        self._num_bytes = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def put(self, work: Work | None, num_bytes: int = 0) -> None:
        """Add work of this size; None ends the queue. One item always has room; one that is larger
        than the queue is waited for, so that its reader counts it until it is done."""
        num_bytes += _ITEM_BYTES
        while self._num_bytes and self._num_bytes + num_bytes > self._max_bytes:
            await self._change()
        self._push(work, num_bytes)
        if num_bytes > self._max_bytes:
            while self._num_bytes:
                await self._change()

    async def end(self) -> None:
        """No more work comes, whatever room there is."""
        self._push(None, 0)

    def _push(self, work: Work | None, num_bytes: int) -> None:
        self._items.append((work, num_bytes))
        self._num_bytes += num_bytes
        self._tell()

    async def _change(self) -> None:
        """Until something was added or done."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _tell(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def run(self) -> None:
        """Do all work in order until the queue ends."""
        while True:
            while not self._items:
                await self._change()
            work, num_bytes = self._items.popleft()
            if work is None:
                return
            await work()
            self._num_bytes -= num_bytes
            self._tell()


async def converse(
    hub: LiveHub,
    read: Callable[[WorkQueue], Awaitable[bool]],
    warn: Callable[[Ending, float], Awaitable[None]],
    max_session_s: float,
) -> Ending:
    """Run a session until it ends; how it did. The caller then finishes what was begun.

    `read` puts work into the queue and returns when nothing more comes: True when the client waits
    for the rest, False when it left. `warn` tells the client how many seconds are left. A client
    that left has its work cancelled at once.
    """
    queue = WorkQueue()
    reading = asyncio.create_task(_as_coroutine(read(queue)))
    working = asyncio.create_task(queue.run())
    draining = asyncio.create_task(hub.draining())
    expiring = asyncio.create_task(_expire(warn, max_session_s))
    ends = {reading, working, draining, expiring}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()  # it ends by an error only
        if reading.done():
            if not reading.result():
                return "left"
            ending: Ending = "done"
        else:
            ending = "shutdown" if draining.done() else "expired"
            if ending == "shutdown":
                await warn("shutdown", 0.0)
            reading.cancel()
        await queue.end()
        await working
        return ending
    finally:
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _as_coroutine(awaitable: Awaitable[bool]) -> bool:
    return await awaitable


async def _expire(warn: Callable[[Ending, float], Awaitable[None]], max_session_s: float) -> None:
    warn_s = min(WARN_S, max_session_s / 2)
    await asyncio.sleep(max_session_s - warn_s)
    await warn("expired", warn_s)
    await asyncio.sleep(warn_s)


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a further connection must know of those before; it holds nothing secret.

    Any replica can read it, since nothing is kept on the server.
    """

    text: str = ""  # the end of what was said
    num_items: int = 0
    audio_ms: int = 0  # of audio whose text is complete; what came after is to be sent again

    def token(self) -> str:
        """As a client hands it on."""
        fields = {"t": self.text[-_MAX_RESUMED_CHARS:], "n": self.num_items, "a": self.audio_ms}
        return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")

    @classmethod
    def of(cls, token: str) -> Resumption:
        """Read a token. Raises InvalidInput for what is none."""
        try:
            if len(token) > _MAX_TOKEN_CHARS:
                raise ValueError("too long")
            padded = token + "=" * (-len(token) % 4)
            fields = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            text, num_items, audio_ms = fields["t"], fields["n"], fields["a"]
            is_valid = isinstance(text, str) and len(text) <= _MAX_RESUMED_CHARS
            for number in (num_items, audio_ms):
                is_valid = is_valid and isinstance(number, int) and 0 <= number < 1 << 40
            if not is_valid:
                raise ValueError("bad fields")
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise InvalidInput(
                "resume: this is no token of a session here", field="resume", limit="a token"
            ) from error
        return cls(text, num_items, audio_ms)


class Progress:
    """How far a session has come, for its resumption."""

    def __init__(self, resumed: Resumption) -> None:
        self._resumed = resumed
        self._text = resumed.text
        self._num_items = 0
        self._done_s = 0.0

    def add(self, text: str, end_s: float) -> None:
        """An item is complete, with the audio up to `end_s` of this session."""
        self._text = f"{self._text} {text}".strip()[-_MAX_RESUMED_CHARS:]
        self._num_items += 1
        self._done_s = end_s

    def resumption(self, done_s: float | None = None) -> Resumption:
        """From here; `done_s`: audio that is done with, where it is more than the items'."""
        done_s = self._done_s if done_s is None else done_s
        return Resumption(
            self._text,
            self._resumed.num_items + self._num_items,
            self._resumed.audio_ms + round(done_s * 1000),
        )


def monotonic_s() -> float:
    """When something arrived."""
    return time.monotonic()
