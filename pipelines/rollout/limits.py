"""What a candidate must keep to while it takes traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.lib.errors import OptionError


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """What the candidate must keep to while it takes traffic. Rates are shares (0.01 = 1 %)."""

    max_failed_rise: float = 0.01  # of the share answered with 429 or 5xx, over stable's
    max_failed_ratio: float = 0.05  # the candidate's own, besides
    p95_latency_ratio: float = 1.25  # candidate's p95 over stable's; the gate has the same
    max_confidence_drop: float = 0.05  # of the mean confidence, candidate below stable
    min_requests: int = 50  # to the candidate before its first step may end
    min_requests_half: int = 700  # to the candidate before it may have half of the traffic
    alpha: float = 0.005  # chance for each test to stop a candidate that is no worse, ever

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> WatchLimits:
        """Limits from a configuration. OptionError names an unknown key."""
        unknown = values.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise OptionError(f"watch: unknown {', '.join(sorted(unknown))}")
        return cls(**values)
