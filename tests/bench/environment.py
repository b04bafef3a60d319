"""What a benchmark ran on: hardware, versions and commit, for the head of every result file."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def describe() -> dict[str, Any]:
    """Machine, packages and commit; `dirty` says that the working tree had changes.

    `BENCH_COMMIT` names the commit of a tree that was copied without its repository.
    """
    import torch

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        except OSError:  # no git here
            return ""
        return done.stdout.strip()

    sent = os.environ.get("BENCH_COMMIT", "")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "num_cpus": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "commit": sent or git("rev-parse", "--short=12", "HEAD"),
        "dirty": not sent and bool(git("status", "--porcelain", "--untracked-files=no")),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
