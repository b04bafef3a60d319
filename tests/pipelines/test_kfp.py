"""The pipelines as compiled, and as run by KFP's local runner with each step a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compile import compile_all, compile_one, typed_arguments
from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import read_report
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_promote import CANDIDATE, NUM_CLIPS, STABLE, Site, answers, write_clips

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"


def test_compiled_files_are_those_in_the_repository(tmp_path: Path) -> None:
    """After a change to the pipelines: python -m pipelines compile --out pipelines/compiled."""
    compile_all(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in COMPILED.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (COMPILED / name).read_bytes(), name


def test_the_image_is_set_in_every_step(tmp_path: Path) -> None:
    path = compile_one("promote", tmp_path / "p.yaml", image="example.com/asr:1.2")
    spec, platform = yaml.safe_load_all(path.read_text())
    images = {
        executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()
    }
    assert images == {"example.com/asr:1.2"}
    assert "kubernetes" in platform["platforms"]


def test_the_step_with_a_checkpoint_has_the_image_with_the_predictor(tmp_path: Path) -> None:
    path = compile_one("evaluate-in-process", tmp_path / "p.yaml", image="example.com/asr:1.2")
    executors = next(yaml.safe_load_all(path.read_text()))["deploymentSpec"]["executors"]
    images = {name: executor["container"]["image"] for name, executor in executors.items()}
    assert images.pop("exec-transcribe") == "example.com/asr:1.2-gpu"
    assert set(images.values()) == {"example.com/asr:1.2"}


def test_volumes_secrets_and_gpu_reach_the_cluster() -> None:
    spec, platform = yaml.safe_load_all((COMPILED / "evaluate-in-process.yaml").read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    step = executors["exec-transcribe"]
    mounts = {mount["mountPath"] for mount in step["pvcMount"]}
    assert mounts == {"/data", "/models"}
    assert step["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert step["secretAsEnv"][0]["secretName"] == "qwen3-asr-api-key"
    container = spec["deploymentSpec"]["executors"]["exec-transcribe"]["container"]
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"


def test_parameters_from_the_command_line_get_their_types() -> None:
    spec = next(yaml.safe_load_all((COMPILED / "promote.yaml").read_text()))
    given = {
        "name": "1", "namespace": "asr", "storage_uri": "s3://m", "num_shards": "3",
        "plan": "{steps: [10, 100], soak_s: 1}",
    }  # fmt: skip
    found = typed_arguments(spec, given)
    assert (found["name"], found["num_shards"]) == ("1", 3)
    assert found["plan"] == {"steps": [10, 100], "soak_s": 1}
    for wrong, message in (
        ({**given, "nam": "x"}, "set: 'nam' is not one of"),
        ({**given, "num_shards": "many"}, "set: num_shards='many' is no number_integer"),
        ({**given, "plan": "5"}, "set: plan='5' is no mapping"),
        ({"name": "x"}, "set: namespace, storage_uri must be given"),
    ):
        with pytest.raises(OptionError, match=message):
            typed_arguments(spec, wrong)


def test_evaluate_runs_locally(tmp_path: Path, kfp_outputs: Path, serve_app: Serve) -> None:
    from pipelines.definitions import evaluate

    write_clips(tmp_path)
    url = serve_app(Service(answers(4)).app())
    evaluate(url=url, data=str(tmp_path / "manifest.jsonl"), num_shards=2, title="local")
    (path,) = kfp_outputs.glob("*/score/report")
    report = read_report(path)
    assert report["title"] == "local"
    assert report["summary"]["num_clips"] == NUM_CLIPS
    assert report["summary"]["errors"]["rate"] == 4 / (3 * NUM_CLIPS)
    (page,) = kfp_outputs.glob("*/score/page")
    assert "<h1>local</h1>" in page.read_text()


def test_a_pipeline_that_breaks_off_leaves_nothing_half_way(
    tmp_path: Path, kfp_outputs: Path, serve_app: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.definitions import promote

    site = Site(tmp_path, serve_app, "Knative", {STABLE: 20, CANDIDATE: 2})
    monkeypatch.setenv("KUBECONFIG", str(site.kubeconfig))
    values: dict[str, Any] = {"plan": {"steps": [25, 100], "soak_s": 0.01, "poll_s": 0.002}}
    with pytest.raises(RuntimeError):
        promote(
            name="qwen3-asr",
            namespace="asr",
            storage_uri=CANDIDATE,
            data=str(site.manifest),
            ingress=site.ingress,
            num_shards=1,
            cluster_by="room",  # no recording says its room: scoring fails
            **values,
        )
    assert site.cluster.split() == {STABLE: 100}
    (state,) = site.cluster.config_maps.values()
    found = json.loads(state["data"]["state.json"])
    assert (found["phase"], found["reasons"]) == ("rolled-back", ["the pipeline did not finish"])


def test_scheduled_finds_drift_locally(tmp_path: Path, kfp_outputs: Path, serve_app: Serve) -> None:
    from pipelines.definitions import scheduled
    from pipelines.evaluate import evaluate
    from pipelines.lib.client import ServiceOptions
    from pipelines.lib.manifest import read_manifest

    manifest = write_clips(tmp_path)
    before = serve_app(Service(answers(0)).app())
    evaluate(read_manifest(manifest), ServiceOptions(before), tmp_path / "accepted")
    now = serve_app(Service(answers(30)).app())
    scheduled(url=now, baseline=str(tmp_path / "accepted/report.json"), data=str(manifest))
    (summary,) = kfp_outputs.glob("*/drift/summary")
    text = summary.read_text()
    assert text.startswith("# Drift\n")
    assert "✗ error rate: +25.00 points" in text
