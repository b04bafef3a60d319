"""Every Triton kernel is compiled for a Hopper GPU, without one, at the 1.7B's sizes.

The interpreter, in which their results are compared, takes what the compiler may not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("more", "least"), [((), 25), pytest.param(("--whole",), 40, marks=pytest.mark.soak)]
)
def test_every_kernel_compiles_for_hopper(more: tuple[str, ...], least: int) -> None:
    """In a fresh process, since others of this run interpret the same kernels."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.model.compiled_kernels", *more],
        cwd=ROOT, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert len(run.stdout.splitlines()) >= least
