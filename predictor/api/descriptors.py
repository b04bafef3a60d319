"""How many connections the process has descriptors for."""

from __future__ import annotations

import logging
import resource
from typing import Final

logger = logging.getLogger(__name__)

RESERVED: Final = 64  # connections for probes
DESCRIPTORS_KEPT: Final = 256  # for files, pipes, gRPC and the engine


def fit_to_descriptors(max_connections: int) -> int:
    """Connections that the process has descriptors for; raises its soft limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (max_connections + RESERVED) + DESCRIPTORS_KEPT  # gRPC has as many
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            logger.warning(
                "fewer connections than max_connections: the limit of descriptors is low",
                extra={"fields": {"descriptors": soft}},
            )
            return max(1, (soft - DESCRIPTORS_KEPT) // 2 - RESERVED)
    return max_connections
