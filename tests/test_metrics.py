"""Figures that are read when somebody scrapes, and the capacity that a replica learns."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from predictor.book import Book
from predictor.engine.options import EngineStats
from predictor.engine.tally import Speed
from predictor.logs import noting
from predictor.metrics import Capacity, Metrics, watch_fronts
from predictor.metrics.histograms import native_bucket
from predictor.service.model import AsrModel, ModelOptions
from predictor.types import Transcription, Usage


@dataclass
class Clock:
    """A device that works by a clock of ours: so much audio a second of work."""

    speed: Speed
    now_s: float = 0.0
    busy_s: float = 0.0

    def works(self, seconds: float, audio_per_s: float, step_s: float = 0.05) -> None:
        for _ in range(round(seconds / step_s)):
            self.speed.worked(step_s)
            self.speed.done(audio_per_s * step_s)
            self.now_s += step_s
            self.busy_s += step_s

    def rests(self, seconds: float) -> None:
        self.now_s += seconds


def test_nothing_is_said_of_a_speed_before_five_seconds_of_work() -> None:
    clock = Clock(Speed())
    clock.works(4.9, 100.0)
    clock.rests(1000.0)
    assert clock.speed.audio_per_s == 0.0
    clock.works(0.2, 100.0)
    assert clock.speed.audio_per_s == pytest.approx(100.0, rel=1e-3)


def test_a_speed_is_the_mean_of_what_was_done_lately_however_long_it_rests() -> None:
    """After so long at another pace an exponential memory is a known way from one to the other."""
    clock = Clock(Speed(memory_s=60.0))
    clock.works(300.0, 100.0)
    clock.rests(86_400.0)
    assert clock.speed.audio_per_s == pytest.approx(100.0, rel=1e-3)
    for busy_s in (30.0, 90.0):
        fresh = Clock(Speed(memory_s=60.0))
        fresh.works(600.0, 100.0)
        fresh.works(busy_s, 20.0)
        expected = 20.0 + 80.0 * math.exp(-busy_s / 60.0)
        assert fresh.speed.audio_per_s == pytest.approx(expected, rel=0.01)


@given(
    st.lists(
        st.tuples(st.floats(1.0, 30.0), st.floats(0.5, 5000.0), st.floats(0.0, 1e4)),
        min_size=5,
        max_size=8,
    )
)
def test_a_speed_is_never_outside_of_what_was_seen(parts: list[tuple[float, float, float]]) -> None:
    clock = Clock(Speed())
    for busy_s, audio_per_s, rest_s in parts:
        clock.works(busy_s, audio_per_s, step_s=0.5)
        clock.rests(rest_s)
    if clock.speed.audio_per_s:
        seen = [audio_per_s for _, audio_per_s, _ in parts]
        assert min(seen) * 0.99 <= clock.speed.audio_per_s <= max(seen) * 1.01


def test_capacity_is_the_setting_until_every_engine_knows_its_speed_and_at_most() -> None:
    capacity = Capacity(max_held_audio_s=7200.0, full_load_s=5.0)
    assert capacity.audio_s([0.0]) == capacity.audio_s([100.0, 0.0]) == 7200.0
    assert capacity.audio_s([100.0]) == 500.0
    assert capacity.audio_s([100.0, 60.0]) == 800.0
    assert capacity.audio_s([5000.0]) == 7200.0


@dataclass
class Core:
    device: str
    audio_per_busy_s: float = 0.0

    def stats(self) -> EngineStats:
        return EngineStats(
            num_waiting=3, num_running=2, waiting_audio_s=30.0, running_audio_s=20.0, num_slots=4,
            max_model_len=640, num_pages=40, num_free_pages=31, num_preempted=5, num_prefix_hits=7,
            num_prefix_misses=2, num_draft_tokens=60, num_draft_accepted=45,
            audio_per_busy_s=self.audio_per_busy_s,
        )  # fmt: skip


def values(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_load_is_held_audio_by_the_learned_capacity_and_live_sessions_beside_it() -> None:
    metrics = Metrics(CollectorRegistry())
    cores = [Core("cpu:0"), Core("cpu:1")]
    metrics.watch(cores, lambda: 100.0, Capacity(1000.0, 5.0), lambda: 0.25)
    assert values(metrics)["qwen3_asr_load"] == pytest.approx(0.1 + 0.25)
    for core in cores:
        core.audio_per_busy_s = 20.0
    said = values(metrics)
    assert said["qwen3_asr_audio_learned_capacity_seconds"] == 200.0
    assert said["qwen3_asr_load"] == pytest.approx(0.5 + 0.25)
    assert said["qwen3_asr_audio_capacity_seconds"] == 1000.0


def test_every_engine_tells_of_itself_by_its_device() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.watch([Core("cuda:0", 50.0), Core("cuda:1")], lambda: 0.0, Capacity(9.0, 1.0), float)
    said = values(metrics)
    expected = {
        "sequences_waiting": 3, "sequences_running": 2, "cache_pages": 40, "cache_pages_used": 9,
        "sequences_preempted_total": 5, "prefix_hits_total": 7, "prefix_misses_total": 2,
        "draft_tokens_offered_total": 60, "draft_tokens_accepted_total": 45,
    }  # fmt: skip
    for name, value in expected.items():
        for device in ("cuda:0", "cuda:1"):
            assert said[f'qwen3_asr_{name}{{device="{device}"}}'] == value
    assert said['qwen3_asr_speed_ratio{device="cuda:0"}'] == 50.0


def test_fronts_are_counted_with_those_that_died(tmp_path: Path) -> None:
    pod = Book(tmp_path / "book", 3, 0)
    metrics = Metrics(CollectorRegistry())
    watch_fronts(metrics.front_figures, pod)
    for index in range(3):
        pod.starts(index)
        Book(tmp_path / "book", 3, index).is_ready()
    pod.clear(1)
    pod.replaced(1)
    said = values(metrics)
    assert said['qwen3_asr_front_processes{state="ready"}'] == 2
    assert said['qwen3_asr_front_processes{state="starting"}'] == 1
    assert said["qwen3_asr_front_restarts_total"] == 1
    Book(tmp_path / "book", 3, 1).is_ready()
    watch_fronts(metrics.front_figures, None)  # a server that is alone
    assert pod.fronts() == (3, 0, 1)
    assert values(metrics)['qwen3_asr_front_processes{state="ready"}'] == 1


@given(st.floats(1e-30, 1e12))
def test_a_fine_bucket_is_nine_percent_wide_and_holds_its_value(value: float) -> None:
    """Prometheus: bucket n of schema 3 is above 2 ** ((n - 1) / 8), up to 2 ** (n / 8)."""
    bucket = int(native_bucket(value))
    assert 2 ** ((bucket - 1) / 8) * (1 - 1e-12) < value <= 2 ** (bucket / 8) * (1 + 1e-12)


def test_fine_buckets_end_at_powers_of_two() -> None:
    values = (0.0, 0.5, 1.0, 1.0000001, 2.0)
    assert [native_bucket(value) for value in values] == ["zero", "-8", "0", "1", "8"]


FRONTS = """
import os, sys
from opentelemetry import trace
from prometheus_client import CollectorRegistry
from predictor.metrics import Metrics, scrape
metrics = Metrics(CollectorRegistry(), is_shared=True, native=True)
sampled = trace.SpanContext(int(sys.argv[1]), 7, False, trace.TraceFlags(1))
with trace.use_span(trace.NonRecordingSpan(sampled)):
    metrics.request_seconds.labels(protocol="v1").observe(0.2)
for accept in ("application/openmetrics-text", "io.prometheus.client.MetricFamily"):
    sys.stdout.buffer.write(scrape(metrics.registry, accept)[0])
"""


def test_a_front_adds_its_traces_to_the_counts_of_all(tmp_path: Path) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for number in (1, 2):
        front = [sys.executable, "-c", FRONTS, str(number)]
        told = subprocess.run(front, env=environ, capture_output=True, check=True).stdout
    lines = [line for line in told.decode("utf-8", "replace").splitlines() if "# {" in line]
    [line] = lines
    bucket, _, exemplar = line.partition(" # ")
    assert bucket == 'qwen3_asr_request_seconds_bucket{le="0.25",protocol="v1"} 2.0'
    assert exemplar.startswith(f'{{span_id="{7:016x}",trace_id="{2:032x}"}} 0.2 ')
    assert b"native_buckets" not in told
    assert told.count(bytes([0x62, 4, 8, 0x23, 0x10, 1, 0x68, 4])) == 1  # bucket -18, twice


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """NVML's calls, as of nvidia-ml-py, on a machine of four GPUs; no GPU is here."""

    class NVMLError(Exception):
        pass

    asked: list[Any] = []

    def by(key: Any) -> Any:
        asked.append(key)
        return key

    def use(handle: Any) -> Any:
        if handle == "MIG-1":
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=40)

    module: Any = ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = module.nvmlDeviceGetHandleByUUID = by
    module.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(used=2 << 30, total=80 << 30)
    module.nvmlDeviceGetUtilizationRates = use
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return asked


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, [0, 1]), ("2,3", [2, 3]), ("GPU-a, MIG-1", ["GPU-a", "MIG-1"])],
)
def test_gpus_are_those_that_cuda_counts(
    nvml: list[Any], monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[Any]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    metrics = Metrics(CollectorRegistry())
    metrics.watch([Core("cuda:0"), Core("cuda:1")], lambda: 0.0, Capacity(9.0, 1.0), float)
    assert nvml == expected
    said = values(metrics)
    for device in ("cuda:0", "cuda:1"):
        assert said[f'qwen3_asr_device_memory_used_bytes{{device="{device}"}}'] == 2 << 30
        assert said[f'qwen3_asr_device_memory_total_bytes{{device="{device}"}}'] == 80 << 30
    assert said['qwen3_asr_device_busy_ratio{device="cuda:0"}'] == 0.4
    assert ('qwen3_asr_device_busy_ratio{device="cuda:1"}' in said) == ("MIG-1" not in expected)


def test_without_the_library_or_without_a_gpu_nothing_is_said_of_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for device in ("cuda:0", "cpu"):
        metrics = Metrics(CollectorRegistry())
        metrics.watch([Core(device)], lambda: 0.0, Capacity(9.0, 1.0), float)
        assert not [name for name in values(metrics) if "device_memory" in name]


@pytest.mark.parametrize("log_text", [False, True])
def test_what_was_said_is_logged_only_where_the_setting_asks_for_it(log_text: bool) -> None:
    options = ModelOptions(60.0, log_text=log_text)
    unused: Any = None
    metrics = Metrics(CollectorRegistry())
    model = AsrModel("asr", unused, unused, unused, metrics, options)
    answer = Transcription("Hi there.", "English", 0.9, 1.0, "stop", Usage(13, 20, 4))
    with noting() as fields:
        model.count("v2", [answer])
    assert ("Hi there." in str(fields)) == log_text
    assert fields["language"] == "English"
