from __future__ import annotations

import numpy as np
import pytest

from predictor.text.echo import is_echo, is_quiet


def _tone(level_dbfs: float, seconds: float) -> np.ndarray:
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    amplitude = 10 ** (level_dbfs / 20) * np.sqrt(2)
    return (amplitude * np.sin(2 * np.pi * 1000 * time_s)).astype(np.float32)


@pytest.mark.parametrize(("level_dbfs", "quiet"), [(-20, False), (-48, False), (-52, True)])
def test_quiet_is_below_50_dbfs(level_dbfs: float, quiet: bool) -> None:
    assert is_quiet(_tone(level_dbfs, 2.0)) is quiet
    assert is_quiet(_tone(level_dbfs, 0.01)) is quiet  # shorter than a frame


def test_one_loud_moment_is_not_quiet() -> None:
    samples = np.zeros(32_000, np.float32)
    assert is_quiet(samples)
    assert is_quiet(samples[:0])
    samples[16_000:16_480] = _tone(-30, 0.03)
    assert not is_quiet(samples)


@pytest.mark.parametrize(
    ("text", "context", "echo"),
    [
        ("Kettle, lamp.", "hot words: kettle lamp door", True),
        ("kettle door", "kettle lamp door", False),
        ("热词", "热词 灯", True),
        ("hello", "", False),
        ("", "kettle", False),
        ("...", "kettle", False),
    ],
)
def test_an_echo_is_a_part_of_the_context(text: str, context: str, echo: bool) -> None:
    assert is_echo(text, context) is echo
