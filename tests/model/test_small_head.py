"""The head of 8-bit rows finds the token that the rows of 16 bits give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from predictor.engine.start import memory
from predictor.engine.start.memory import head_copy_bytes, keeps_head_copy
from tests.engine.test_build import BIG

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("more", [(), pytest.param(("--whole",), marks=pytest.mark.soak)])
def test_its_kernels_find_the_tokens_of_16_bits(more: tuple[str, ...]) -> None:
    """In Triton's interpreter, which must be chosen before Triton is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.model.small_head_parity", *more]
    subprocess.run(command, cwd=ROOT, check=True, timeout=3000 if more else 800)


@pytest.mark.parametrize(("total", "expected"), [(24 * 10**9, False), (80 * 10**9, True)])
def test_large_cards_have_it_and_count_its_memory(
    monkeypatch: pytest.MonkeyPatch, total: int, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (total // 2, total))
    assert keeps_head_copy(CUDA) == expected
    copied = head_copy_bytes(BIG, CUDA, torch.bfloat16)
    assert copied == (151_936 * (2048 + 12) if expected else 0)
    assert head_copy_bytes(BIG, CUDA, torch.float32) == 0
    assert memory.HEAD_COPY_BYTES > 24 * 2**30


def test_elsewhere_there_is_none() -> None:
    assert not keeps_head_copy(CPU)
    assert head_copy_bytes(BIG, CPU, torch.bfloat16) == 0
