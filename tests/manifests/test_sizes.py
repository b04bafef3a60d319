"""Numbers in the manifests that claim to be measured are those of the benchmark."""

from __future__ import annotations

import json
from typing import Any

from tests.bench import readme, sizes
from tests.manifests.objects import MANIFESTS

README = (MANIFESTS / "README.md").read_text()
RESULTS: dict[str, Any] = json.loads(readme.RESULTS.read_text())
ROWS = RESULTS["rows"]
STEADY = ROWS["1.7B steady 32 x 10 s, p95/p50"]
STEPS = ROWS["1.7B decode steps"]


def test_the_readme_gives_what_was_measured() -> None:
    assert sizes.shown(README) == sizes.measured(RESULTS), "run: python -m tests.bench.sizes"


def test_what_the_files_say_holds_for_the_measured_card() -> None:
    """The sentences around the table: a second of work for KEDA's value, three quarters unused."""
    assert 960 / STEADY["rtfx_about"] < 1
    offline = ROWS["1.7B offline 30 s"]
    assert offline["num_slots"] == sizes.FULL_BATCH
    assert 0.2 < STEADY["rtfx_about"] / offline["value"] < 0.3


def test_the_components_say_the_same() -> None:
    rate = f"{STEADY['rtfx_about']:,.0f}"
    texts = {
        name: " ".join(
            (MANIFESTS / "components" / name / "inference-service.yaml")
            .read_text()
            .replace("#", " ")
            .split()
        )
        for name in ("knative-autoscaling", "keda")
    }
    assert f"{rate} audio seconds a second" in texts["knative-autoscaling"]
    assert f"{STEADY['last_token']['p95_ms']:.0f} ms at the 95th" in texts["knative-autoscaling"]
    ratio = STEPS["step_32_ms"] / STEPS["step_1_ms"]
    assert f"{ratio:.1f} times that of one" in texts["knative-autoscaling"]
    assert f"{rate} audio seconds a second" in texts["keda"]
