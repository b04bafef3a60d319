"""Both ends of a decode step by kernels give what plain calls give, in Triton's interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("more", [(), pytest.param(("--whole",), marks=pytest.mark.soak)])
def test_both_ends_equal_their_plain_twins(more: tuple[str, ...]) -> None:
    """In a process of its own: the interpreter must be chosen before Triton is imported."""
    command = [sys.executable, "-m", "tests.engine.step_parity", *more]
    subprocess.run(command, cwd=ROOT, check=True, timeout=3000 if more else 800)
