"""Numbers in the manifests that claim to be measured are those of the benchmark."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from pipelines.lib.capacity import Sizing, target_concurrency
from tests.manifests.objects import MANIFESTS, ROOT

README = (MANIFESTS / "README.md").read_text()
ROWS: dict[str, Any] = json.loads(
    (ROOT / "tests" / "bench" / "results" / "engine-h200.json").read_text()
)["rows"]
STEADY = ROWS["1.7B steady 32 x 10 s, p95/p50"]
STEPS = ROWS["1.7B decode steps"]


def result_of(row: str) -> str:
    """What the README says about a row of the benchmark."""
    [line] = [line for line in README.splitlines() if line.startswith(f"| `{row}` |")]
    return line.split("|")[2]


def numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d,.]*\d", text)


def test_the_readme_gives_each_row_as_it_was_measured() -> None:
    listed = re.findall(r"^\| `(1\.7B [^`]+)` \|", README, re.MULTILINE)
    said = {row: numbers(result_of(row)) for row in listed}
    last, first = STEADY["last_token"], STEADY["first_token"]
    assert said == {
        "1.7B steady 32 x 10 s, p95/p50": [
            f"{STEADY['rtfx_about']:,.0f}", "32", f"{last['p50_ms']:.0f}", f"{last['p95_ms']:.0f}",
            "95", f"{first['p95_ms']:.0f}", "95",
        ],
        "1.7B offline 64 x 10 s": [f"{ROWS['1.7B offline 64 x 10 s']['value']:,.0f}", "64"],
        **{
            row: [f"{ROWS[row]['value']:,.0f}", str(ROWS[row]["num_slots"])]
            for row in ("1.7B offline 30 s", "1.7B offline 10 s", "1.7B offline mixed")
        },
        "1.7B decode steps": [
            f"{STEPS['step_1_ms']:.2f}", f"{STEPS['step_32_ms']:.2f}", "32",
            f"{STEPS['step_256_ms']:.2f}", "256",
        ],
        "1.7B start": [f"{ROWS['1.7B start']['value']:.1f}"],
    }  # fmt: skip


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


def test_the_settings_for_the_measured_card_are_derived_as_stated() -> None:
    rtfx = ROWS["1.7B offline 30 s"]["value"]
    target = target_concurrency(rtfx, mean_duration_s=10, latency_s=0.5, sizing=Sizing(0.5))
    cells = {
        line.split("|")[1].split("`")[1]: line.split("|")[3]
        for line in README.splitlines()
        if re.match(r"\| `[\w]+`.*\|.*\|.*\|$", line) and "one H200" not in line
    }
    assert cells["scaleTarget"].strip() == str(target)
    assert cells["value"].strip() == f"{target * 10:,}"


EDGE: dict[str, Any] = json.loads(
    (ROOT / "tests" / "bench" / "results" / "edge-cpu.json").read_text()
)["rows"]


def edge_row(what: str) -> str:
    """Where the README says that a number of the edge overlay is from."""
    [line] = [line for line in README.splitlines() if line.startswith(f"| `edge`: {what}")]
    return line.split("|")[2]


def test_the_edge_overlay_asks_for_what_was_measured() -> None:
    peaks = {p: EDGE[f"0.6B {p}, server"]["rss_peak_mib"] for p in ("int8", "fp32")}
    for peak in peaks.values():
        assert f"{peak:,}" in edge_row("4 Gi requested")
    for precision in peaks:
        seconds = EDGE[f"0.6B {precision}, 2 threads"]["last_token_s"]
        assert f"{seconds:.2f} s in {precision}" in edge_row("2 CPUs")
    text = (MANIFESTS / "overlays" / "edge" / "runtime.yaml").read_text()
    assert f"{peaks['int8']:,} MiB" in text
    [patch] = yaml.safe_load(text)
    asked = patch["value"]
    assert peaks["int8"] <= mebibytes(asked["requests"]["memory"])
    config = json.loads((MANIFESTS / "overlays" / "edge" / "model-config.json").read_text())
    full = config["batch_size"] * config["max_model_len"] * 224 / 1024
    assert peaks["int8"] + full * 2 / 3 <= mebibytes(asked["limits"]["memory"])
    assert int(asked["requests"]["cpu"]) == config["num_threads"]
    assert config["precision"] == "int8"


def mebibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi")) * 1024
