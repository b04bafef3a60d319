"""Processes of ours: started, connected, watched, started again and ended."""

from predictor.processes.child import (
    ChildProcess,
    bare_environment,
    connected_child,
    environment,
)
from predictor.processes.cpus import num_cpus
from predictor.processes.supervisor import Supervisor

__all__ = [
    "ChildProcess",
    "Supervisor",
    "bare_environment",
    "connected_child",
    "environment",
    "num_cpus",
]
