"""The pipelines as compiled, and as run by KFP's local runner with each step a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pipelines.compile import compile_all, compile_one, typed_arguments
from pipelines.evaluation_steps import AlarmError
from pipelines.lib.errors import OptionError, PipelineError
from pipelines.lib.evaluation import read_report
from pipelines.rollout_steps import Run, deploy, refuse, service_url, shift
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_promote import (
    CANDIDATE,
    FEW_LIMITS,
    NUM_CLIPS,
    STABLE,
    Site,
    answers,
    write_clips,
)

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
    data, journals = str(tmp_path / "manifest.jsonl"), str(tmp_path / "journals")
    evaluate(url=url, data=data, num_shards=2, title="local", journals=journals)
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
    site.services[CANDIDATE].inputs = ("audio", "draft")
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
            concurrency=1,
            send_language=True,
            drafts=True,
            journals=str(tmp_path / "journals"),
            cluster_by="room",  # no recording says its room: scoring fails
            **values,
        )
    assert site.proxy.order == [STABLE, CANDIDATE] * NUM_CLIPS  # each recording of both in turn
    stable, candidate = (site.services[uri].asked for uri in (STABLE, CANDIDATE))
    assert {said.language for said in (*stable, *candidate)} == {"English"}
    assert {said.draft for said in stable} == {None}
    heard = [site.services[STABLE].answer(said.audio)["text"] for said in candidate]
    assert [said.draft for said in candidate] == heard
    assert site.cluster.split() == {STABLE: 100}
    (state,) = site.cluster.config_maps.values()
    found = json.loads(state["data"]["state.json"])
    assert (found["phase"], found["reasons"]) == ("rolled-back", ["the pipeline did not finish"])


@pytest.mark.parametrize(
    ("wrong", "verdict"), [((20, 2), "promoted"), ((2, 20), "rolled-back")], ids=str
)
def test_the_pipeline_promotes_the_better_and_refuses_the_worse(
    tmp_path: Path,
    kfp_outputs: Path,
    serve_app: Serve,
    monkeypatch: pytest.MonkeyPatch,
    wrong: tuple[int, int],
    verdict: str,
) -> None:
    """Both branches after the gate; with real predictors in the long tests."""
    from pipelines.definitions import promote

    site = Site(tmp_path, serve_app, "Knative", dict(zip((STABLE, CANDIDATE), wrong, strict=True)))
    monkeypatch.setenv("KUBECONFIG", str(site.kubeconfig))
    accepted = tmp_path / "accepted" / "report.json"
    plan = {"steps": [25, 100], "soak_s": 0.01, "poll_s": 0.002, "split_samples": 40}
    promote(
        name="qwen3-asr",
        namespace="asr",
        storage_uri=CANDIDATE,
        data=str(site.manifest),
        ingress=site.ingress,
        num_shards=1,
        limits=FEW_LIMITS,
        plan=plan,
        accepted_report=str(accepted),
        fail_when_refused=False,
        journals=str(tmp_path / "journals"),
    )
    promoted = verdict == "promoted"
    (state,) = site.cluster.config_maps.values()
    found = json.loads(state["data"]["state.json"])
    assert found["phase"] == verdict, found["reasons"]
    assert site.cluster.split() == {CANDIDATE if promoted else STABLE: 100}
    assert max(split.get(CANDIDATE, 0) for split in site.cluster.routed) == 100 * promoted
    assert accepted.exists() == promoted
    (page,) = kfp_outputs.glob("*/judge/page")
    assert ("<b>Accepted</b>" in page.read_text()) == promoted
    if not promoted:
        assert found["reasons"][0].startswith("error rate in English")


def test_drift_fails_a_scheduled_run_after_its_report_is_kept(
    tmp_path: Path, kfp_outputs: Path, serve_app: Serve
) -> None:
    from pipelines.definitions import scheduled
    from pipelines.evaluate import evaluate
    from pipelines.lib.client import ServiceOptions
    from pipelines.lib.manifest import read_manifest

    told: list[dict[str, Any]] = []

    async def hook(request: Request) -> JSONResponse:
        told.append(json.loads(await request.body()))
        return JSONResponse({})

    manifest = write_clips(tmp_path)
    before = serve_app(Service(answers(0)).app())
    evaluate(read_manifest(manifest), ServiceOptions(before), tmp_path / "accepted")
    now = serve_app(Service(answers(30)).app())
    webhook = serve_app(Starlette(routes=[Route("/", hook, methods=["POST"])]))
    given = {"baseline": str(tmp_path / "accepted/report.json"), "data": str(manifest),
             "journals": str(tmp_path / "journals")}  # fmt: skip
    with pytest.raises(RuntimeError, match="alarm"):
        scheduled(url=now, webhook=webhook + "/", **given)
    (summary,) = kfp_outputs.glob("*/drift/summary")
    text = summary.read_text()
    assert text.startswith("# Drift\n")
    assert "✗ error rate: +25.00 points" in text
    [message] = told
    assert "✗ error rate: +25.00 points" in message["text"]


def test_every_step_has_requests_and_limits() -> None:
    for path in COMPILED.glob("*.yaml"):
        spec = next(yaml.safe_load_all(path.read_text()))
        for name, executor in spec["deploymentSpec"]["executors"].items():
            resources = executor["container"].get("resources", {})
            keys = ("Cpu", "Memory")
            for side in ("Request", "Limit"):
                assert all(f"resource{key}{side}" in resources for key in keys), (path.name, name)


def test_every_parameter_that_a_step_uses_reaches_its_group() -> None:
    """KFP's compiler leaves one out that only a step's resources use: the run stops at the loop."""
    for path in COMPILED.glob("*.yaml"):
        spec = next(yaml.safe_load_all(path.read_text()))
        for name, group in {**spec["components"], "root": spec["root"]}.items():
            declared = group.get("inputDefinitions", {}).get("parameters", {})
            for task in group.get("dag", {}).get("tasks", {}).values():
                used = task.get("inputs", {}).get("parameters", {}).values()
                wanted = {
                    u["componentInputParameter"] for u in used if "componentInputParameter" in u
                }
                assert wanted <= declared.keys(), (path.name, name, wanted - declared.keys())


def test_answers_alone_are_cached_by_what_they_depend_on() -> None:
    """KFP compares a step's parameters and the names of its artifacts, not what is in them."""
    for path in COMPILED.glob("*.yaml"):
        spec = next(yaml.safe_load_all(path.read_text()))
        steps = {
            name
            for part in (spec["root"], *spec["components"].values())
            for name, task in part.get("dag", {}).get("tasks", {}).items()
            if task.get("cachingOptions", {}).get("enableCache")
            and "executorLabel" in spec["components"][task["componentRef"]["name"]]
        }
        assert steps == ({"transcribe"} if path.stem == "evaluate" else set()), path.name


def use(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """The kubeconfig of this very process: the client reads the environment when imported."""
    from kubernetes import config

    for module in (config, config.kube_config):
        monkeypatch.setattr(module, "KUBE_CONFIG_DEFAULT_LOCATION", str(site.kubeconfig))


def test_a_service_is_found_by_its_status(
    tmp_path: Path, serve_app: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, serve_app, "Knative", {STABLE: 20, CANDIDATE: 2})
    use(monkeypatch, site)
    assert service_url(site.ingress, "", "", "") == site.ingress
    site.cluster.inside_url = "http://localhost:80"
    assert service_url("", "", "qwen3-asr", "asr") == "http://localhost:80"
    site.cluster.inside_url = "http://nobody.invalid"
    with pytest.raises(OptionError, match=r"url: nobody.invalid does not resolve from here"):
        service_url("", "", "qwen3-asr", "asr")
    with pytest.raises(OptionError, match="url: must be given, or name and namespace"):
        service_url("", "", "", "")


def run_of(site: Site, **more: Any) -> Run:
    plan = {"steps": [25.0, 100.0], "soak_s": 0.01, "poll_s": 0.002, "split_samples": 40.0}
    return Run("qwen3-asr", "asr", plan, "run-1", model="qwen3-asr", **more)


def test_what_a_run_will_need_is_tried_before_anything_is_changed(
    tmp_path: Path, serve_app: Serve, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    site = Site(tmp_path, serve_app, "Knative", {STABLE: 20, CANDIDATE: 2})
    use(monkeypatch, site)
    (tmp_path / "file").write_text("")
    nowhere = f"http://127.0.0.1:{unused_tcp_port}"
    for run, report, message in (
        (run_of(site), "", "ingress: qwen3-asr.asr.example.com does not resolve .*kourier"),
        (run_of(site, ingress="http://nobody.invalid"), "", "ingress: nobody.invalid does not"),
        (
            run_of(site, ingress=site.ingress),
            str(tmp_path / "file" / "report.json"),
            "accepted_report: .* cannot be written by uid",
        ),
        (run_of(site, ingress=site.ingress, prometheus=nowhere), "", "Prometheus does not answer"),
        (run_of(site, ingress=site.ingress, webhook="chat"), "", "webhook: 'chat' does not"),
    ):
        with pytest.raises(PipelineError, match=message):
            deploy(run, CANDIDATE, report)
    assert site.cluster.config_maps == {}
    assert list((tmp_path).glob("accepted*")) == []


def test_a_run_that_broke_off_after_the_promotion_is_finished_by_the_next(
    tmp_path: Path, serve_app: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, serve_app, "Knative", {STABLE: 20, CANDIDATE: 2})
    use(monkeypatch, site)
    run = run_of(site, ingress=site.ingress)
    accepted = tmp_path / "accepted" / "report.json"
    decision, report = tmp_path / "decision.json", tmp_path / "report.json"
    decision.write_text(json.dumps({"reasons": ["it is better"]}))
    report.write_text("{}")
    hosts = deploy(run, CANDIDATE, str(accepted))
    assert len({hosts[1], hosts[3]}) == 2
    assert shift(run, str(decision), report=str(report), accepted_report="") == "promoted"
    assert not accepted.exists()  # as if the copy had failed: the run is red
    again = deploy(run, CANDIDATE, str(accepted))
    assert again == (site.ingress, site.cluster.host, site.ingress, site.cluster.host)
    assert shift(run, str(decision), report=str(report), accepted_report=str(accepted))
    assert accepted.read_text() == "{}"


def test_a_refused_candidate_fails_the_run_unless_told_otherwise(
    tmp_path: Path, serve_app: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, serve_app, "Knative", {STABLE: 20, CANDIDATE: 2})
    use(monkeypatch, site)
    run = run_of(site, ingress=site.ingress)
    decision = tmp_path / "decision.json"
    decision.write_text(json.dumps({"reasons": ["it is worse"]}))
    for fail in (False, True):
        deploy(run, CANDIDATE, "")
        if fail:
            with pytest.raises(AlarmError, match="not promoted: it is worse"):
                refuse(run, str(decision), fail=True)
        else:
            refuse(run, str(decision), fail=False)
        assert site.cluster.split() == {STABLE: 100}
