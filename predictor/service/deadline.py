"""One time limit for a request: waiting, decoding and transcribing, from when the model gets it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from predictor.errors import DeadlineExceeded, InvalidInput

HEADER: Final = "x-request-timeout-s"


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, and the limit that it came from."""

    moment_s: float
    limit_s: float

    @staticmethod
    def of(headers: Mapping[str, str] | None, most_s: float) -> Deadline:
        """From now: what the caller grants in HEADER, `most_s` at most. Raises InvalidInput."""
        given = (headers or {}).get(HEADER)
        limit_s = most_s if given is None else min(most_s, _seconds(given))
        return Deadline(time.monotonic() + limit_s, limit_s)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """What is awaited inside ends by the deadline. Raises DeadlineExceeded."""
        try:
            async with asyncio.timeout(self.moment_s - time.monotonic()):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(f"not finished within {self.limit_s:g} s") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidInput(
            f"{HEADER}: must be a number of seconds above 0",
            field=HEADER,
            value=text[:40],
            limit="above 0",
        )
    return seconds
