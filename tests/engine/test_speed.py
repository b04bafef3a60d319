"""The engine's notion of its own speed."""

from __future__ import annotations

import pytest

from predictor.engine.speed import HALF_LIFE_S, Speed


def test_speed_is_audio_over_time() -> None:
    speed = Speed()
    assert speed.audio_s_per_s == 0
    speed.add(audio_s=0.0, seconds=0.5)
    assert speed.audio_s_per_s == 0
    speed.add(audio_s=30.0, seconds=0.5)
    assert speed.audio_s_per_s == pytest.approx(30, rel=0.02)


def test_older_steps_count_for_less() -> None:
    speed = Speed()
    speed.add(audio_s=100.0, seconds=1.0)
    speed.add(audio_s=0.0, seconds=HALF_LIFE_S)
    assert speed.audio_s_per_s == pytest.approx(50 / (0.5 + HALF_LIFE_S))
