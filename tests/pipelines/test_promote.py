"""Promotion by evaluation, end to end on the fake cluster: gate, traffic, reports, crashes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from pipelines.cli import main
from pipelines.lib.errors import OptionError
from pipelines.promote import read_candidate, with_storage_uri
from pipelines.rollout.cluster import Cluster
from pipelines.rollout.storage_uri import check_storage_uri
from tests.pipelines.conftest import Serve
from tests.pipelines.fake_cluster import FakeCluster
from tests.pipelines.fake_controller import NAMESPACE, inference_service
from tests.pipelines.proxy import Proxy
from tests.pipelines.service import Service

STABLE, CANDIDATE = "s3://models/stable", "s3://models/candidate"
MODES = ("Knative", "Standard")
NUM_CLIPS = 40
# What 40 recordings can show: the error rate, when it changes a lot.
FEW_LIMITS = {
    "p95_latency_ratio": "none",
    "hallucination_margin": "none",
    "repetition_margin": "none",
    "language_accuracy_margin": "none",
    "confidence_margin": "none",
    "calibration_margin": "none",
}
FEW = [f"--{name.replace('_', '-')}={value}" for name, value in FEW_LIMITS.items()]


class Site:
    """A cluster, a gateway, two versions of a service, recordings and a kubeconfig."""

    def __init__(self, folder: Path, serve_app: Serve, mode: str, wrong: dict[str, int]) -> None:
        self.folder = folder
        self.cluster = FakeCluster(inference_service(mode, STABLE))
        self.services = {
            uri: Service(answers(number), identity=f"digest-of-{uri}")
            for uri, number in wrong.items()
        }
        backends = {uri: serve_app(each.app()) for uri, each in self.services.items()}
        self.proxy = Proxy(self.cluster, backends)
        self.ingress = serve_app(self.proxy.app())
        self.api = serve_app(self.cluster.app())
        self.kubeconfig = write_kubeconfig(folder / "kubeconfig", self.api)
        self.manifest = write_clips(folder)

    def run(self, command: str, *arguments: str) -> int:
        return main([command, "qwen3-asr", f"--namespace={NAMESPACE}", *self.access(), *arguments])

    def access(self) -> list[str]:
        return [f"--kubeconfig={self.kubeconfig}", "--api-attempts=1"]

    def promote(self, *arguments: str) -> int:
        fixed = [
            f"--storage-uri={CANDIDATE}", f"--ingress={self.ingress}", f"--data={self.manifest}",
            f"--out={self.folder / 'out'}", "--quiet", "--resamples=300", "--concurrency=2",
            "--soak-s=0.01", "--poll-s=0.002", "--split-samples=60", "--split-timeout-s=1", *FEW,
        ]  # fmt: skip
        return self.run("promote", *fixed, *arguments)


def answers(num_wrong: int) -> Callable[[bytes], dict[str, Any]]:
    """A version that gets the first word of so many recordings wrong."""

    def answer(audio: bytes) -> dict[str, Any]:
        text = audio.decode()
        if int(text.rsplit(" ", 1)[1]) < num_wrong:
            text = "wrong" + text.removeprefix("recording")
        return {"text": text, "language": "English", "confidence": 0.9, "duration": 2.0}

    return answer


def write_clips(folder: Path) -> Path:
    lines = []
    for i in range(NUM_CLIPS):
        (folder / f"{i}.wav").write_text(f"recording number {i}")
        entry = {"audio": f"{i}.wav", "text": f"recording number {i}", "language": "en"}
        lines.append(json.dumps(entry))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder / "manifest.jsonl"


def write_kubeconfig(path: Path, url: str) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


Sites = Callable[..., Site]


@pytest.fixture
def site(tmp_path: Path, serve_app: Serve) -> Sites:
    def build(mode: str, *, stable: int, candidate: int) -> Site:
        return Site(tmp_path, serve_app, mode, {STABLE: stable, CANDIDATE: candidate})

    return build


@pytest.mark.parametrize("mode", MODES)
def test_a_better_candidate_is_promoted(
    site: Sites, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    built = site(mode, stable=20, candidate=2)
    assert built.promote() == 0
    said = capsys.readouterr().out
    assert said.startswith("promoted\n- 40 recordings with speech were compared")
    assert built.cluster.split() == {CANDIDATE: 100}
    assert built.proxy.sent == {STABLE: NUM_CLIPS, CANDIDATE: NUM_CLIPS}
    assert built.run("status") == 0
    assert "phase: promoted" in capsys.readouterr().out
    (folder,) = (built.folder / "out").iterdir()
    assert json.loads((folder / "comparison.json").read_text())["decision"]["accepted"]
    assert (folder / "candidate" / "report.html").exists()
    assert built.run("rollback", "--poll-s=0.002", "--soak-s=0", "--reason=regret") == 0
    assert built.cluster.split() == {STABLE: 100}


@pytest.mark.parametrize("mode", MODES)
def test_a_worse_candidate_is_refused_and_never_gets_traffic(
    site: Sites, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    built = site(mode, stable=2, candidate=20)
    assert built.promote("--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["promoted"], result["phase"]) == (False, "rolled-back")
    assert [r.split(":")[0] for r in result["reasons"]] == ["error rate in English"]
    assert built.cluster.routed == [{STABLE: 100}]
    assert built.run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["reasons"] == result["reasons"]


def test_an_interrupted_run_is_continued_with_its_answers(
    site: Sites, capsys: pytest.CaptureFixture[str]
) -> None:
    built = site("Knative", stable=20, candidate=2)
    built.cluster.fail_after = 6  # the API goes away while the traffic is being moved
    assert built.promote("--run-id=a") == 2
    assert "the API server is gone" in capsys.readouterr().err
    built.cluster.fail_after = None
    assert built.run("status") == 1  # half-way
    built.cluster.expire_leases()  # it would be waited for
    assert built.promote("--run-id=b") == 0
    assert built.cluster.split() == {CANDIDATE: 100}
    assert built.proxy.sent == {STABLE: NUM_CLIPS, CANDIDATE: NUM_CLIPS}
    assert built.promote("--run-id=c") == 0  # promoted already: nothing to do, and no mistake


def test_a_version_that_cannot_be_reached_is_rolled_back(
    site: Sites, capsys: pytest.CaptureFixture[str]
) -> None:
    built = site("Knative", stable=2, candidate=2)
    built.proxy.backends[CANDIDATE] = "http://127.0.0.1:9"  # nobody listens there
    assert built.promote("--attempts=1") == 1
    said = capsys.readouterr().out
    assert "could not be evaluated: http://latest-qwen3-asr-predictor.asr" in said
    assert "metadata cannot be asked: HTTP 500" in said
    assert built.cluster.split() == {STABLE: 100}


def test_mistakes_change_nothing(site: Sites, capsys: pytest.CaptureFixture[str]) -> None:
    built = site("Knative", stable=0, candidate=0)
    assert built.promote("--steps=50,5") == 2
    assert "must rise" in capsys.readouterr().err
    assert built.promote(f"--storage-uri={STABLE}") == 2
    assert "nothing to roll out" in capsys.readouterr().err
    assert built.promote("--storage-uri=s4://models/v2") == 2
    assert "storage-uri: 's4://models/v2' does not begin with one of hf" in capsys.readouterr().err
    assert built.promote("--wer-margin=-1") == 2
    assert "gate: wer_margin" in capsys.readouterr().err
    assert built.run("rollback") == 2
    assert "there is no rollout" in capsys.readouterr().err
    assert built.run("status") == 0
    assert built.cluster.config_maps == {}


def test_candidates_from_files(tmp_path: Path) -> None:
    service = inference_service("Knative", CANDIDATE)
    path = tmp_path / "candidate.yaml"
    for document in (service, service["spec"]["predictor"]):
        path.write_text(yaml.safe_dump(document))
        assert read_candidate(path) == service["spec"]["predictor"]
    path.write_text("kind: Service")
    with pytest.raises(OptionError, match="is neither an InferenceService nor a predictor"):
        read_candidate(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_candidate(tmp_path / "nothing.yaml")


def test_other_weights_for_both_forms_of_predictors() -> None:
    assert with_storage_uri({"model": {"storageUri": "a", "x": 1}}, "b") == {
        "model": {"storageUri": "b", "x": 1}
    }
    env = [{"name": "PROTOCOL", "value": "v2"}, {"name": "STORAGE_URI", "value": "a"}]
    changed = with_storage_uri({"containers": [{"env": env}]}, "b")
    assert changed["containers"][0]["env"][1] == {"name": "STORAGE_URI", "value": "b"}
    assert env[1]["value"] == "a"
    with pytest.raises(OptionError, match="neither a model nor STORAGE_URI"):
        with_storage_uri({"containers": [{"name": "c"}]}, "b")


def test_storage_uris_that_can_hold_nothing(serve_app: Serve) -> None:
    url = serve_app(Starlette(routes=[Route("/there", lambda _request: Response())]))
    for uri in ("hf://Qwen/Qwen3-ASR-1.7B:main", "s3://b/k", "pvc://claim", f"{url}/there",
                "oci+native://registry.example.com/asr:1", "modelscope://Qwen/Qwen3-ASR-1.7B",
                "http://nobody.invalid/x"):  # fmt: skip
        check_storage_uri(uri)
    for uri, message in (
        ("models/v2", "does not begin with one of hf, modelscope, s3"),
        ("ms://Qwen/Qwen3-ASR-1.7B", "does not begin with one of"),
        ("hf://Qwen3-ASR", "is not of the form hf://OWNER/MODEL"),
        ("s3://bucket", "is not of the form s3://BUCKET/PATH"),
        (f"{url}/nothing", "HTTP 404"),
    ):
        with pytest.raises(OptionError, match=message):
            check_storage_uri(uri)


def test_what_knative_refuses_is_in_the_reasons(
    site: Sites, capsys: pytest.CaptureFixture[str]
) -> None:
    """The API takes it; only the InferenceService's status says that no revision was made."""
    built = site("Knative", stable=2, candidate=2)
    predictor = copy.deepcopy(built.cluster.service["spec"]["predictor"])
    predictor["model"]["storageUri"] = CANDIDATE
    predictor["annotations"] = {"autoscaling.knative.dev/activation-scale": "1"}
    path = built.folder / "candidate.yaml"
    path.write_text(yaml.safe_dump(predictor))
    fixed = [f"--candidate={path}", f"--data={built.manifest}", f"--out={built.folder / 'out'}"]
    assert built.run("promote", *fixed, "--ready-timeout-s=0.3", "--poll-s=0.002") == 1
    said = capsys.readouterr().out
    assert "ReconcileFailed" in said
    assert "activation-scale" in said
    assert built.cluster.routed == [{STABLE: 100}]
    assert built.run("status") == 0


def test_the_state_belongs_to_the_service(site: Sites) -> None:
    built = site("Knative", stable=2, candidate=20)
    built.promote()
    (state,) = built.cluster.config_maps.values()
    assert state["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    api = client.ApiClient(client.Configuration(host=built.api))
    found = Cluster(api, NAMESPACE, "qwen3-asr").read_state()
    assert found is not None
    assert found.finished
