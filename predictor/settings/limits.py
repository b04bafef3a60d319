"""What the machine gives a process: descriptors, and the time of day."""

from __future__ import annotations

import resource
import time
from datetime import UTC, datetime
from typing import Final

# Files of the checkpoint and of imports, pipes and sockets to processes, gRPC, some connections.
MIN_DESCRIPTORS: Final = 512
_RELEASE_S: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # this code is younger
_FAR_S: Final = 20 * 365 * 86_400


def descriptor_problem() -> str | None:
    """That no server fits into the hard limit; the soft one is raised later."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= MIN_DESCRIPTORS:
        return None
    return (
        f"ulimit -n: the hard limit of {hard} descriptors is too low for a server; raise it to "
        f"{MIN_DESCRIPTORS} at least, 4096 for max_connections=1000 (docker run --ulimit nofile=…)"
    )


def clock_note(now_s: float | None = None) -> str | None:
    """That the clock cannot be right, by which certificates are judged."""
    now_s = time.time() if now_s is None else now_s
    if _RELEASE_S <= now_s < _RELEASE_S + _FAR_S:
        return None
    said = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d %H:%M")
    return (
        f"the clock says {said} UTC, which cannot be: TLS and downloads by model_id will fail; "
        "set the clock of the node (NTP)"
    )
