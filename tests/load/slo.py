"""Service level objectives of a load test, judged from what Locust counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHED = "shed"  # 429 and 503 with Retry-After: the service protects itself


@dataclass(frozen=True, slots=True)
class Slo:
    """What must hold over the whole test."""

    max_failure_ratio: float = 0.01  # of all requests; what was shed does not count
    max_shed_ratio: float = 0.0  # of all requests
    max_p95_s: float = 2.0  # of short recordings, until the whole answer
    max_p95_first_text_s: float = 1.0  # of streams, until the first text
    min_requests: int = 20  # fewer tell nothing


@dataclass(frozen=True, slots=True)
class Counted:
    """One kind of request: its name, how often, and its 95th percentile in seconds."""

    name: str
    num_requests: int
    num_failures: int
    num_shed: int
    p95_s: float


def violations(counted: Sequence[Counted], slo: Slo) -> list[str]:
    """A sentence for each objective that was missed."""
    requests = [c for c in counted if not c.name.startswith(FIRST_TEXT)]
    total = sum(c.num_requests for c in requests)
    if total < slo.min_requests:
        return [f"{total} requests, at least {slo.min_requests} are needed to judge"]
    shed = sum(c.num_shed for c in requests)
    failed = sum(c.num_failures for c in requests) - shed
    found = []
    if failed / total > slo.max_failure_ratio:
        found.append(f"{failed} of {total} failed, at most {slo.max_failure_ratio:.1%} may")
    if shed / total > slo.max_shed_ratio:
        found.append(f"{shed} of {total} were shed, at most {slo.max_shed_ratio:.1%} may be")
    for c in counted:
        limit_s = _limit_s(c.name, slo)
        if limit_s is not None and c.num_requests and c.p95_s > limit_s:
            found.append(f"{c.name}: p95 is {c.p95_s:.3f} s, at most {limit_s:g} s is allowed")
    return found


FIRST_TEXT = "first text"  # prefix of the entries that time a stream's first text
SHORT = "short"


def _limit_s(name: str, slo: Slo) -> float | None:
    if name.startswith(FIRST_TEXT):
        return slo.max_p95_first_text_s
    return slo.max_p95_s if SHORT in name else None
