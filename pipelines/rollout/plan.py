"""How traffic moves, apart from the machine that moves it: read without the Kubernetes client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from pipelines.lib.errors import OptionError


@dataclass(frozen=True, slots=True)
class Plan:
    """How traffic moves. Times in seconds."""

    steps: tuple[int, ...] = (5, 25, 50, 100)  # percent for the candidate, ending at 100
    soak_s: float = 300.0  # at each step, watched all the time
    ready_timeout_s: float = 1800.0  # for the candidate to load, and for traffic to settle
    poll_s: float = 5.0
    max_wait_s: float = 3600.0  # at a step, for enough requests to judge by; then it pauses
    max_failed_looks: int = 5  # in a row, at Prometheus or the status, before that means something
    split_samples: int = 300  # requests at each step to see who answers; 0 = trust the status
    split_timeout_s: float = 60.0  # for routes to follow the status
    lease_s: float = 30.0  # a run that was silent for longer counts as dead

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.steps))
        if not self.steps or not rising or self.steps[0] < 1 or self.steps[-1] != 100:
            raise OptionError(f"steps: {self.steps} must rise from at least 1 and end at 100")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Plan:
        """A plan from a configuration. OptionError names an unknown key."""
        unknown = values.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise OptionError(f"plan: unknown {', '.join(sorted(unknown))}")
        whole = [key for key, default in asdict(cls()).items() if isinstance(default, int)]
        given: dict[str, Any] = dict(values)
        given |= {k: int(v) for k, v in values.items() if k in whole}  # KFP makes floats of them
        if "steps" in given:
            given["steps"] = tuple(int(step) for step in given["steps"])
        return cls(**given)
