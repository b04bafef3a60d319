"""The fake does what the real cluster was seen to do: what the tests must not be fooled by."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.cluster.conftest import fake_target
from tests.cluster.fake.api import FakeKubernetes
from tests.cluster.fake.controllers import FakeService
from tests.cluster.service_api import Object, Refused
from tests.cluster.status import conditions, messages, newest, split, traffic
from tests.manifests.conftest import needs_kustomize
from tests.manifests.knative_rules import ROLLOUT_DURATION
from tests.manifests.kserve_rules import refusals
from tests.manifests.objects import knative_service, of_kind, predictors
from tests.manifests.user_overlay import UserOverlay

pytestmark = needs_kustomize


def fake(
    folder: Path, overlay: str = "dev-cpu", components: tuple[str, ...] = (), kserve: str = "0.20.0"
) -> FakeService:
    objects = UserOverlay(overlay, components).build(folder)
    [service] = copy.deepcopy(of_kind(objects, "InferenceService"))
    service["metadata"]["generation"] = 1
    made = FakeService(service, objects, kserve)
    for _ in range(10):
        made.turn()
    return made


def update(made: FakeService, percent: int | None, folder: str = "") -> None:
    changed = copy.deepcopy(made.service)
    changed["spec"]["predictor"]["canaryTrafficPercent"] = percent
    if percent is None:
        del changed["spec"]["predictor"]["canaryTrafficPercent"]
    if folder:
        [container] = changed["spec"]["predictor"]["containers"]
        container["args"] = [f"--model_dir=/app/checkpoints/{folder}"]
    made.change(changed)


def statuses(made: FakeService, turns: int = 10) -> list[Object]:
    seen = []
    for _ in range(turns):
        made.turn()
        seen.append(copy.deepcopy(made.service))
    return seen


def test_the_status_flaps_to_the_end_before_the_traffic_is_there(tmp_path: Path) -> None:
    made = fake(tmp_path)
    first = newest(made.service)
    update(made, 0, "tiny-early")
    statuses(made)
    second = newest(made.service)
    update(made, 50)
    shown = statuses(made)
    wanted = {first: 50, second: 50}
    early = [s for s in shown if split(s) == wanted and conditions(s)["Ready"] == "Unknown"]
    assert early
    assert any(split(s) == {first: 100} for s in shown[shown.index(early[0]) :])
    assert split(shown[-1]) == wanted
    assert conditions(shown[-1])["Ready"] == "True"


def test_with_a_rollout_duration_the_tag_answers_from_both(tmp_path: Path) -> None:
    made = fake(tmp_path)
    made.service["metadata"]["annotations"][ROLLOUT_DURATION] = "120s"
    update(made, 0, "tiny-early")
    shown = []
    for _ in range(10):
        made.turn()
        shown.append(len(made.backends(made.tag_host("latest"))))
    assert max(shown) == 2
    without = fake(tmp_path)
    update(without, 0, "tiny-early")
    for _ in range(10):
        without.turn()
        assert len(without.backends(without.tag_host("latest"))) == 1


@pytest.mark.parametrize(("kserve", "share"), [("0.20.0", 0), ("0.21.0", 50)])
def test_weights_follow_the_status_from_021_on(kserve: str, share: int, tmp_path: Path) -> None:
    made = fake(tmp_path, "production-standard", ("canary-standard",), kserve)
    made.service["spec"]["canary"][0]["trafficPercent"] = 50
    statuses(made)
    [reported] = made.service["status"]["canaryStatuses"]
    assert (reported["trafficPercent"], reported["ready"]) == (50, True)
    assert dict(made.served)["qwen3-asr-candidate-predictor"] == share


def test_a_canary_of_a_service_scaled_by_keda_is_not_reconciled(tmp_path: Path) -> None:
    """Unless it says that it has no scaler of its own: KServe would make one without triggers."""
    made = fake(tmp_path, "production-standard", ("canary-standard",))
    assert conditions(made.service)["Ready"] == "True"
    del made.service["spec"]["canary"][0]["predictor"]["annotations"]
    made.turn()
    assert "spec.triggers: Required value" in messages(made.service)


def test_a_model_without_storage_gets_an_agent(tmp_path: Path) -> None:
    made = fake(tmp_path, "production")
    [plain] = made.pods()
    changed = copy.deepcopy(made.service)
    del changed["spec"]["predictor"]["model"]["storageUri"]
    changed["spec"]["predictor"]["minReplicas"] = 1
    changed["spec"]["predictor"]["model"]["args"] = ["--model_dir=/app/checkpoints/tiny"]
    made.change(changed)
    statuses(made)
    names = [{each["name"] for each in pod["spec"]["containers"]} for pod in made.pods()]
    assert "agent" not in {each["name"] for each in plain["spec"]["containers"]}
    assert any("agent" in each for each in names)


def test_a_refusal_at_reconcile_is_in_the_conditions_only(tmp_path: Path) -> None:
    made = fake(tmp_path, "dev-cpu")
    made.service["metadata"]["annotations"]["autoscaling.knative.dev/window"] = "5s"
    made.turn()
    assert "expected 6s <= 5s <= 1h0m0s" in messages(made.service)
    assert traffic(made.service)


def test_kserves_webhook_has_its_words(tmp_path: Path) -> None:
    [service] = of_kind(UserOverlay("edge").build(tmp_path), "InferenceService")
    assert list(refusals(service)) == []
    predictor = service["spec"]["predictor"]
    cases: list[tuple[Object, str]] = [
        ({"minReplicas": 2}, "'MinReplicas' cannot be greater than MaxReplicas"),
        ({"minReplicas": -1}, "'MinReplicas' cannot be less than 0"),
        ({"containers": [{}]}, "Exactly one"),
    ]
    for change, words in cases:
        broken = {**service, "spec": {"predictor": {**predictor, **change}}}
        assert any(words in said for said in refusals(broken)), words
    knative = copy.deepcopy(service)
    knative["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] = "Knative"
    assert "deploymentMode cannot be changed" in next(refusals(knative, service))
    named = {"name": "a", "model": predictor["model"], "minReplicas": 3}
    listed = [{"trafficPercent": 60, "predictor": named}] * 2
    canaries = {**service, "spec": {"predictor": predictor, "canary": listed}}
    said = " ".join(refusals(canaries))
    assert "duplicated" in said
    assert "(120) must be <= 100" in said
    assert "must not exceed stable" in said


def test_a_dry_run_of_knatives_service_needs_its_account(tmp_path: Path) -> None:
    """Seen on the real node: without it the webhook refuses what a cluster would take."""
    [predictor] = predictors(UserOverlay("dev-cpu").build(tmp_path))
    service = knative_service(predictor)
    service["metadata"] |= {"namespace": "empty"}
    account = {"name": predictor.spec["serviceAccountName"], "namespace": "empty"}
    with fake_target(FakeKubernetes()) as target:
        with pytest.raises(Refused, match="error looking up service account empty/qwen3-asr"):
            target.cluster.create_dry(service)
        target.cluster.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}])
        target.cluster.create_dry(service)
