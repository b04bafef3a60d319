"""Capacity by hand, and the microphone with FFmpeg's own source of sound."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.lib.capacity import (
    Sizing,
    daily_traffic,
    plan_day,
    read_benchmark,
    target_concurrency,
)
from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.figures import capacity, to_svg
from pipelines.lib.microphone import record_microphone


def test_a_day_by_hand() -> None:
    rates = [0.0] * 12 + [100.0] * 11 + [1000.0]
    plan = plan_day(rates, rtfx=400, sizing=Sizing(0.5, min_replicas=0, price_per_hour=3))
    assert [hour.replicas for hour in plan.hours] == [0] * 12 + [1] * 11 + [5]
    assert plan.hours[-1].load == 0.5
    assert plan.peak_replicas == 5
    assert plan.cost_per_day == (11 + 5) * 3
    assert plan.cost_per_day_fixed == 5 * 24 * 3
    assert plan.cost_per_audio_hour == pytest.approx(48 / 2100)
    assert "<svg" in to_svg(capacity(plan))


def test_benchmarks_are_of_the_right_clip_length(tmp_path: Path) -> None:
    rows = {
        "own 256 x 30 s": {"value": 3000.0, "unit": "RTFx", "latency": {"p50_ms": 2000.0}},
        "own 64 x 10 s": {"value": 2000.0, "unit": "RTFx", "latency": {"p50_ms": 300.0}},
        "own 256 x 10 s": {"value": 2500.0, "unit": "RTFx", "latency": {"p50_ms": 900.0}},
    }
    path = tmp_path / "http.json"
    path.write_text(json.dumps({"rows": rows, "environment": {"gpu": "x"}}))
    found = read_benchmark(path, mean_duration_s=8)
    assert (found.row, found.rtfx, found.latency_s) == ("own 256 x 10 s", 2500.0, 0.9)
    assert read_benchmark(path, mean_duration_s=60).rtfx == 3000.0
    assert read_benchmark(path, "own 64 x 10 s", mean_duration_s=60).rtfx == 2000.0


def test_a_load_tests_own_report_is_a_benchmark(tmp_path: Path) -> None:
    achieved = {"offered_per_s": 20.0, "achieved_per_s": 19.5, "rtfx": 97.5, "p50_s": 0.4,
                "mean_duration_s": 5.0}  # fmt: skip
    path = tmp_path / "load.json"
    path.write_text(json.dumps({"host": "http://asr", "achieved": achieved}))
    found = read_benchmark(path)
    assert (found.rtfx, found.latency_s) == (97.5, 0.4)
    assert found.row == "load test at 19.5 of 20 requests a second, 5.0 s each"
    path.write_text(json.dumps({"host": "http://asr", "achieved": {**achieved, "rtfx": None}}))
    with pytest.raises(ManifestError, match="is no report of a load test"):
        read_benchmark(path)


def test_traffic_adds_up_to_the_day() -> None:
    rates = daily_traffic(240, peak_hour=14)
    assert sum(rates) == pytest.approx(240)
    assert max(rates) == rates[14]
    assert min(rates) == pytest.approx(rates[14] * 0.1)


def test_target_concurrency_is_littles_law() -> None:
    assert target_concurrency(400, 10, 0.5, Sizing(0.5)) == 10
    assert target_concurrency(1, 10, 0.01, Sizing(0.5)) == 1


def test_benchmarks_are_read_by_row(tmp_path: Path) -> None:
    rows = {
        "one clip": {"value": 45, "unit": "ms"},
        "offline 30 s": {"value": 6000.0, "unit": "RTFx"},
        "failed": {"error": "no memory"},
    }
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"environment": {"gpu": "H200"}, "rows": rows}))
    found = read_benchmark(path)
    assert (found.row, found.rtfx, found.environment["gpu"]) == ("offline 30 s", 6000.0, "H200")
    with pytest.raises(ManifestError, match="has no RTFx row 'one clip', only offline 30 s"):
        read_benchmark(path, "one clip")
    with pytest.raises(ManifestError, match="is no benchmark"):
        read_benchmark(tmp_path / "nothing.json")


def test_mistakes() -> None:
    with pytest.raises(OptionError, match=r"utilisation: 1\.5"):
        Sizing(utilisation=1.5)
    with pytest.raises(OptionError, match="needs 24 rates"):
        plan_day([1.0], 10, Sizing())


def test_the_microphone_gives_a_recording() -> None:
    sound = record_microphone(0.5, ("sine=frequency=440:sample_rate=48000:duration=2", "lavfi"))
    assert sound is not None
    samples, rate_hz = soundfile.read(io.BytesIO(sound))
    assert (len(samples), rate_hz) == (8000, 16_000)
    peak = np.argmax(np.abs(np.fft.rfft(samples))) * rate_hz / len(samples)
    assert abs(peak - 440) <= 2


def test_no_microphone_is_none() -> None:
    assert record_microphone(0.1, ("nothing", "no-such-format")) is None
