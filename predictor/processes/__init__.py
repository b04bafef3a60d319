"""Processes of ours: started, connected, watched, started again and ended."""

from predictor.processes.child import (
    ChildProcess,
    bare_environment,
    connected_child,
    environment,
)
from predictor.processes.cpus import num_cpus
from predictor.processes.exit_guard import end_before_exit
from predictor.processes.supervisor import Supervisor

__all__ = [
    "ChildProcess",
    "Supervisor",
    "bare_environment",
    "connected_child",
    "end_before_exit",
    "environment",
    "num_cpus",
]
