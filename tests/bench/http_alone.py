"""One clip at a time: by which figures it goes, and an engine that does nothing else meanwhile.

An engine that has been at rest for a while captures graphs, some fifty of them; a request that
arrives meanwhile waits. So what is measured is an engine that has captured all.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from tests.bench.load import quantiles

PREPARED_WITHIN_S = 120.0
LOOK_EVERY_S = 0.1


def wait_until_prepared(num_unprepared: Callable[[], int]) -> float:
    """Seconds until no engine has anything left to prepare; RuntimeError if that takes too long."""
    began_s = time.monotonic()
    while num_unprepared():
        if time.monotonic() - began_s > PREPARED_WITHIN_S:
            raise RuntimeError(f"the engine still prepares after {PREPARED_WITHIN_S:g} s")
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began_s


def unprepared_behind(port: int) -> int:
    """Engines of a server that may have something left to prepare, as one of its fronts knows."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/bench/shares") as response:
        return int(json.load(response)["num_unprepared"])


def alone_row(
    first_s: Sequence[float], last_s: Sequence[float], prepared_after_s: float
) -> dict[str, Any]:
    """`first_s` and `last_s`: seconds to the first and the last words of each answer."""
    first, last = quantiles(first_s), quantiles(last_s)
    return {
        "value": last["p50_ms"],
        "unit": "ms",
        "p95_ms": last["p95_ms"],
        "first_ms": first["p50_ms"],
        "first_p95_ms": first["p95_ms"],
        "repeats": len(last_s),
        "prepared_after_s": prepared_after_s,
    }
