"""Numbers in the manifests that claim to be measured are those of the benchmark."""

from __future__ import annotations

import json
from typing import Any

import yaml

from predictor.settings.fields import Settings
from predictor.settings.read import load_settings
from tests.bench import readme, sizes
from tests.manifests.memory import parts_mib, shown
from tests.manifests.objects import MANIFESTS

README = (MANIFESTS / "SIZES.md").read_text()
RESULTS: dict[str, Any] = readme.load_results()
ROWS = RESULTS["rows"]
STEADY = ROWS["1.7B steady 32 x 10 s, p95/p50"]
STEPS = ROWS["1.7B decode steps"]


def test_the_readme_gives_what_was_measured() -> None:
    assert sizes.shown(README) == sizes.measured(RESULTS), "run: python -m tests.bench.sizes"


def test_what_the_files_say_holds_for_the_measured_card() -> None:
    """The sentence around the table: most of it unused."""
    offline = ROWS["1.7B offline 30 s"]
    assert offline["num_slots"] == sizes.OFFLINE["1.7B offline 30 s"]
    assert STEADY["rtfx_about"] / offline["value"] < 0.5


def test_what_a_small_card_holds_is_what_was_measured() -> None:
    result = json.loads((readme.FOLDER / "small-card-h200.json").read_text())
    rows = result["rows"]
    full, usual = rows["1.7B, auto, 10 s, long answers"], rows["1.7B, auto, 10 s"]
    [line] = [row for row in README.splitlines() if row.startswith("| GPUs from 16 GB")]
    assert f"{result['card_mib']:,} MiB were left" in line
    assert f"held {full['num_pages']:,} pages and decoded {full['most_running']} " in line
    assert f"as people speak, {usual['most_running']}," in line
    assert not full["num_preempted"]
    gpu = (MANIFESTS / "components" / "gpu" / "runtime.yaml").read_text()
    assert f"held {full['most_running']} such recordings at once" in gpu


def test_the_components_say_the_same() -> None:
    rate = f"{STEADY['rtfx_about']:,.0f}"
    file = MANIFESTS / "components" / "knative-autoscaling" / "inference-service.yaml"
    text = " ".join(file.read_text().replace("#", " ").split())
    assert f"{rate} audio seconds a second" in text
    assert f"{STEADY['last_token']['p95_ms']:.0f} ms at the 95th" in text
    ratio = STEPS["step_32_ms"] / STEPS["step_1_ms"]
    assert f"{ratio:.1f} times that of one" in text


def test_the_base_asks_for_the_memory_that_was_measured() -> None:
    """And for the recordings that the server may hold, in each of its two processes."""
    [run] = [r for r in ROWS["1.7B start, warm"]["runs"] if "rss_peak_mib" in r]
    runtime = (MANIFESTS / "base" / "serving-runtime.yaml").read_text()
    [line] = [row for row in README.splitlines() if row.startswith("| 5 Gi requested and 10 Gi")]
    for text in (runtime, line):
        assert f"{run['rss_peak_mib']:,} MiB" in text
        assert f"{run['at_once']} pieces of {run['piece_s']} s at once" in " ".join(
            text.replace("#", " ").split()
        )
    [container] = yaml.safe_load(runtime)["spec"]["containers"]
    requested, allowed = (
        mebibytes(container["resources"][kind]["memory"]) for kind in ("requests", "limits")
    )
    config = json.loads((MANIFESTS / "base" / "model-config.json").read_text())
    assert not {"max_held_audio_s", "max_pending_bytes"} & config.keys()
    held = 2 * Settings().max_held_audio_s * 16_000 * 4 / 2**20
    bodies = load_settings([], {}).max_pending_bytes / 2**20
    assert run["rss_peak_mib"] + held + bodies < requested
    weights = 2 * 2_038_052_480 / 2**20  # in the page cache, which counts for the limit
    assert run["rss_peak_mib"] + held + bodies + weights < allowed


def dev_cpu_flags() -> list[str]:
    patches = yaml.safe_load((MANIFESTS / "overlays/dev-cpu/inference-service.yaml").read_text())
    return [p["value"] for p in patches if p["path"].endswith("/args/-")]


def limit_mib(overlay: str, path: str) -> int:
    """Of memory, in the file's one container or in its patch."""
    loaded = yaml.safe_load((MANIFESTS / overlay / path).read_text())
    if isinstance(loaded, list):
        [resources] = [p["value"] for p in loaded if p["path"].endswith("/resources")]
    else:
        [container] = loaded["spec"]["containers"]
        resources = container["resources"]
    return mebibytes(resources["limits"]["memory"])


def test_all_that_callers_can_make_a_pod_hold_fits_its_limit() -> None:
    """By arithmetic; tests/chaos/test_pods.py tries it."""
    [run] = [r for r in ROWS["1.7B start, warm"]["runs"] if "rss_peak_mib" in r]
    base = parts_mib(
        load_settings([], {}),
        run["rss_peak_mib"],
        num_fronts=2,
        num_decoders=3,
        num_sample_copies=2,
    )  # of four CPUs two for each front, three decoders
    tiny = parts_mib(
        load_settings(dev_cpu_flags(), {}),
        EDGE["tiny fp32, server"]["rss_peak_mib"],
        num_fronts=1,
        num_decoders=2,
        num_sample_copies=1,
    )
    assert sum(base.values()) < limit_mib("base", "serving-runtime.yaml")
    assert sum(tiny.values()) < limit_mib("overlays/dev-cpu", "inference-service.yaml")
    for name, parts in {"base": base, "dev-cpu": tiny}.items():
        assert f"| `{name}` | {shown(parts)} |" in README


EDGE: dict[str, Any] = json.loads((readme.FOLDER / "edge-cpu.json").read_text())["rows"]


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
    asked = {p["path"].partition("/resources/")[2]: p["value"] for p in yaml.safe_load(text)}
    assert peaks["int8"] <= mebibytes(asked["requests/memory"])
    config = json.loads((MANIFESTS / "overlays" / "edge" / "model-config.json").read_text())
    full = config["batch_size"] * config["max_model_len"] * 224 / 1024
    held = Settings().max_held_audio_s * 16_000 * 4 / 2**20
    bodies = load_settings([], {}).max_pending_bytes / 2**20
    assert peaks["int8"] + full * 2 / 3 + held + bodies <= mebibytes(asked["limits/memory"])
    assert int(asked["requests/cpu"]) == config["num_threads"]
    assert config["precision"] == "int8"


def test_the_tiny_server_is_what_was_measured() -> None:
    row = EDGE["tiny fp32, server"]
    text = (MANIFESTS / "overlays" / "dev-cpu" / "inference-service.yaml").read_text()
    for each in (text, README):
        assert f"{row['rss_peak_ready_mib']} MiB" in each
        assert f"{row['rss_peak_mib']:,} MiB at the peak" in each
    assert f"ready {row['ready_s']:.1f} seconds after loading begins" in README
    [resources] = [p["value"] for p in yaml.safe_load(text) if p["path"].endswith("/resources")]
    assert row["rss_peak_mib"] <= int(resources["requests"]["memory"].removesuffix("Mi"))


def mebibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi")) * 1024
