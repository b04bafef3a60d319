"""Figures of the GPU beside what the driver's own tool says of it, and what `doctor` says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from prometheus_client import CollectorRegistry

from predictor.metrics.nvml import device_figures, watch_devices

pytestmark = pytest.mark.gpu

GIB = 1 << 30
SLACK = GIB // 4  # what a context and others may take meanwhile


def by_nvidia_smi(what: str) -> list[str]:
    command = ["nvidia-smi", "--id=0", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [part.strip() for part in done.stdout.split(",")]


@pytest.fixture
def figure() -> Callable[[str], float]:
    """A metric of the first GPU, as a scrape would read it."""
    registry = CollectorRegistry()
    watch_devices(device_figures(registry), ["cuda:0"])

    def read(name: str) -> float:
        value = registry.get_sample_value(f"qwen3_asr_device_{name}", {"device": "cuda:0"})
        assert value is not None, name
        return value

    return read


def test_memory_is_what_nvidia_smi_says(figure: Callable[[str], float]) -> None:
    torch.ones(1, device="cuda")
    used, total = (float(part) * 2**20 for part in by_nvidia_smi("memory.used,memory.total"))
    assert figure("memory_total_bytes") == pytest.approx(total, abs=2**20)
    before = figure("memory_used_bytes")
    assert before == pytest.approx(used, abs=GIB)  # reserved by the driver: counted or not
    held = torch.empty(8 * GIB, dtype=torch.uint8, device="cuda")
    assert figure("memory_used_bytes") - before == pytest.approx(held.numel(), abs=SLACK)


def test_a_gpu_that_works_is_busy(figure: Callable[[str], float]) -> None:
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    for _ in range(200):  # rounds of work; NVML looks a few times a second
        for _ in range(200):
            x = (x @ x).clamp_(-1, 1)
        torch.cuda.synchronize()
        if figure("busy_ratio") > 0.5:
            return
    pytest.fail(f"{figure('busy_ratio'):.0%} busy while it multiplies")


def test_the_doctor_names_the_gpu() -> None:
    command = [sys.executable, "-m", "predictor.cli", "doctor", "--http_port=0", "--grpc_port=0"]
    done = subprocess.run(command, capture_output=True, text=True)
    [line] = [each for each in done.stdout.splitlines() if each.split()[1:2] == ["device"]]
    name, driver = by_nvidia_smi("name,driver_version")
    assert line.startswith("ok")
    assert name in line
    assert f"driver {driver}" in line
    major, minor = torch.cuda.get_device_capability()
    assert f"compute capability {major}.{minor}" in line
