"""Knative's queue-proxy, beside the server in its pod: when it is about to end.

A pod that must go has its queue-proxy told first. It answers probes with 503 from then on, sleeps
30 s, and ends whatever WebSockets are open; only then is the server told. So the server asks, and
ends its live sessions with a word while they can still hear one.
https://github.com/knative/pkg/blob/main/network/handlers/drain.go
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

_PORT: Final = 8012  # of requests without TLS, on every pod of Knative's
PERIOD_S: Final = 1.0
_TIMEOUT_S: Final = 2.0
_PROBE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nK-Network-Probe: probe\r\nConnection: close\r\n\r\n"
)
_DRAINING: Final = b" 503 "


def port_beside_us(environment: Mapping[str, str]) -> int | None:
    """Where it listens; None where there is none: Knative sets the revision's name in its pods."""
    if "K_REVISION" not in environment:
        return None
    return int(environment.get("QUEUE_SERVING_PORT", _PORT))


async def until_draining(
    port: int, is_wanted: Callable[[], bool], *, period_s: float = PERIOD_S
) -> None:
    """Returns once the queue-proxy drains; asked only while `is_wanted`."""
    while True:
        await asyncio.sleep(period_s)
        if is_wanted() and await _drains(port):
            return


async def _drains(port: int) -> bool:
    """One that is not there, or gone already, says nothing of itself."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(_PROBE)
                line = await reader.readline()
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False
    return _DRAINING in line
