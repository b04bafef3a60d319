"""How many processors this container has."""

from __future__ import annotations

import math
import os
from pathlib import Path


def num_cpus(root: Path = Path("/")) -> int:
    """CPUs that this container may use, at least 1: by affinity, and by quota if there is one."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        available = min(available, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup of version 2, or no quota ("max")
        pass
    return max(1, available)
