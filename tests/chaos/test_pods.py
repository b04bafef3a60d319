"""Whole servers under all attacks at once: within a pod's memory, and with two fronts.

In `make soak`; the figures go to results/pods.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.api.test_fronts import FRONT, children
from tests.bench.environment import describe
from tests.chaos.attacks import Target, attack

pytestmark = pytest.mark.soak

DEV_CPU = Path(__file__).parents[2] / "manifests" / "overlays" / "dev-cpu"
RESULTS = Path(__file__).parent / "results" / "pods.json"
CGROUPS = Path("/sys/fs/cgroup")
ATTACK_S = min(120.0, float(os.environ.get("SOAK_S", "60")))
ENDS_A_DECODER = ("an index of gigabytes", "a header of gigabytes")  # and nothing else does
SAID = "Remind me to call my sister at 7:30."
GIB, MIB = 1024**3, 1024**2


def dev_cpu() -> tuple[list[str], int]:
    """The overlay's own flags, and the limit of its memory in bytes."""
    patches = yaml.safe_load((DEV_CPU / "inference-service.yaml").read_text())
    flags = [p["value"] for p in patches if p["path"].endswith("/args/-")]
    [resources] = [p["value"] for p in patches if p["path"].endswith("/resources")]
    limit = resources["limits"]["memory"]
    return flags, int(limit.removesuffix("Gi")) * GIB


class Cgroup:
    """Memory of some processes, of either version of the kernel's interface."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self._is_v2 = (folder / "memory.max").exists()
        self._write("memory.max" if self._is_v2 else "memory.limit_in_bytes", limit)

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))

    def take(self, pid: int) -> None:
        """That process, and all that it starts from now on."""
        self._write("cgroup.procs", pid)

    @property
    def peak_bytes(self) -> int:
        name = "memory.peak" if self._is_v2 else "memory.max_usage_in_bytes"
        return int((self.folder / name).read_text())

    @property
    def num_killed(self) -> int:
        """Processes that the kernel ended for want of memory."""
        name = "memory.events" if self._is_v2 else "memory.oom_control"
        lines = dict(line.split() for line in (self.folder / name).read_text().splitlines())
        return int(lines["oom_kill"])


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    _, limit = dev_cpu()
    parents = [CGROUPS / "memory", CGROUPS]
    for parent in parents:
        folder = parent / f"qwen3-asr-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            try:
                made = Cgroup(folder, limit)
            except OSError:
                folder.rmdir()
                continue
            yield made
            for _ in range(100):  # its processes have ended, but the kernel may not know yet
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    return
                time.sleep(0.1)
            return
    pytest.skip("no memory cgroup can be made here: that needs root and a writable /sys/fs/cgroup")


def held(server: Any) -> None:
    """It still serves, and right; what was left of the attack may take a while to be refused."""
    until = time.monotonic() + 120
    while True:
        with open(CLIP, "rb") as file:
            response = httpx.post(server.url + RECOGNIZE, files={"audio": file}, timeout=120)
        if response.status_code == 200:
            break
        assert response.status_code in (429, 503)
        assert time.monotonic() < until
        time.sleep(1)
    assert response.json()["text"] == SAID
    assert server.process.poll() is None


RECOGNIZE = "/api/v1/recognize"
CLIP = Path(__file__).parents[2] / "predictor" / "recordings" / "demo-en-1.flac"


def note(name: str, figures: dict[str, Any]) -> None:
    """One test's figures into the file of all."""
    if "SOAK_S" not in os.environ:
        return
    noted = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    figures = {"machine": describe(), "load_average": os.getloadavg()[0], **figures}
    RESULTS.write_text(json.dumps({**noted, name: figures}, indent=1) + "\n")


def test_a_pod_at_its_limit_is_never_killed(start_server: Any, cgroup: Cgroup) -> None:
    """The server of dev-cpu, with its flags, in a cgroup of its memory."""
    flags, limit = dev_cpu()
    server = start_server(*flags, before=lambda: cgroup.take(os.getpid()))
    ready = cgroup.peak_bytes
    [most] = [int(f.partition("=")[2]) for f in flags if f.startswith("--max_body_bytes=")]
    answered = attack(Target(server, most), ATTACK_S)
    held(server)
    peak, num_killed = cgroup.peak_bytes, cgroup.num_killed
    replaced = server.metric("qwen3_asr_decode_workers_replaced_total")
    note(
        "dev-cpu",
        {"flags": flags, "limit_mib": limit // MIB, "seconds": ATTACK_S, "attacks": answered,
         "peak_ready_mib": ready // MIB, "peak_mib": peak // MIB, "killed": num_killed},
    )  # fmt: skip
    server.end()
    assert num_killed == 0
    assert replaced <= sum(answered.get(name, {}).get("times", 0) for name in ENDS_A_DECODER)


def test_two_fronts_under_attack(start_server: Any) -> None:
    """None of them ends, and each still answers."""
    server = start_server("--num_front_processes=2", "--client_timeout_s=5")
    before = children(server.process.pid, FRONT)
    answered = attack(Target(server), ATTACK_S)
    for _ in range(8):  # the kernel deals connections out
        held(server)
    note("two fronts", {"seconds": ATTACK_S, "attacks": answered})
    assert children(server.process.pid, FRONT) == before
    assert len(before) == 2
