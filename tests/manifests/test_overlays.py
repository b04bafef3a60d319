"""Overlays and sensible choices of components build, fit their schemas, keep our rules."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from predictor.settings.read import load_settings
from tests.manifests import pod_rules, service_rules
from tests.manifests.conftest import (
    ADDED,
    KNATIVE,
    OVERLAYS,
    STANDARD,
    needs_kustomize,
    needs_schemas,
)
from tests.manifests.objects import (
    MANIFESTS,
    Object,
    build,
    combine,
    core_pod,
    knative_service,
    of_kind,
    predictors,
    with_config,
)
from tests.manifests.queries import our_series
from tests.manifests.schemas import OLDEST_KUBERNETES, core_problems, custom_problems, problems

pytestmark = needs_kustomize
SECRETS = frozenset({"qwen3-asr-api-keys"})  # made by hand, as the README says


def features() -> frozenset[str]:
    """Knative's flags that manifests/cluster/knative turns on."""
    text = (MANIFESTS / "cluster/knative/config-features.yaml").read_text()
    return frozenset(k for k, v in yaml.safe_load(text)["data"].items() if v == "enabled")


def max_timeout_s() -> int:
    """The longest timeout that manifests/cluster/knative allows."""
    text = (MANIFESTS / "cluster/knative/config-defaults.yaml").read_text()
    return int(yaml.safe_load(text)["data"]["max-revision-timeout-seconds"])


def longest_request_s(argv: list[str], config: str) -> float:
    """By flags and the mounted file, as the server reads them."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(config)
        file.flush()
        return load_settings(argv, {}, Path(file.name)).request_timeout_s


def longest_live_session_s(argv: list[str]) -> float:
    return load_settings(argv, {}).max_live_session_s


@needs_schemas
def test_fits_its_schemas(objects: list[Object]) -> None:
    assert [problem for each in objects for problem in problems(each)] == []


@needs_schemas
def test_what_kserve_makes_of_it_fits_too(objects: list[Object]) -> None:
    """The pod as core Kubernetes sees it, and on Knative the service it becomes."""
    found = []
    for each in predictors(objects):
        found += core_problems(core_pod(each), OLDEST_KUBERNETES)
        if each.mode == "Knative":
            found += custom_problems(knative_service(each))
    assert found == []


def broken_rules(objects: list[Object]) -> Iterator[str]:
    """What our rules say against built objects, on a cluster set up as manifests/cluster says."""
    rules: list[Iterable[str]] = [
        pod_rules.knative_refusals(objects, features(), max_timeout_s()),
        pod_rules.knative_annotations(objects),
        pod_rules.ports(objects),
        pod_rules.container_name(objects),
        pod_rules.hardened(objects),
        pod_rules.resources(objects),
        pod_rules.volumes(objects, SECRETS),
        pod_rules.live_sessions(objects, longest_live_session_s),
        pod_rules.time_limits(objects, longest_request_s),
        pod_rules.jobs(objects),
        pod_rules.modelcars(objects),
        pod_rules.images_pinned(objects),
        service_rules.deployment_mode(objects),
        service_rules.canaries(objects),
        service_rules.storage_pinned(objects),
        service_rules.references(objects),
        service_rules.permissions(objects),
        service_rules.scaling(objects),
        service_rules.selectors(objects),
        service_rules.queries(objects, our_series()),
    ]
    for rule in rules:
        yield from rule


def test_keeps_the_rules(objects: list[Object]) -> None:
    assert list(broken_rules(objects)) == []


def test_every_component_is_tried() -> None:
    tried = {name for choice in [*KNATIVE, *STANDARD] for name in choice}
    assert tried == {path.name for path in (MANIFESTS / "components").iterdir()}


def test_every_overlay_is_tried_with_more() -> None:
    assert sorted(ADDED) == OVERLAYS


def test_production_asks_for_a_gpu(built: Any) -> None:
    """An overlay's own patches come after its components, and must leave what those added."""
    for overlay in ("production", "production-standard"):
        for each in predictors(built(f"overlays/{overlay}")):
            assert each.container["resources"]["limits"].get("nvidia.com/gpu") == "1", each.name


def test_edge_keeps_a_gpu_that_a_component_asks_for(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    overlay = tmp_path / "manifests" / "overlays" / "edge"
    file = overlay / "kustomization.yaml"
    component = "  - ../../components/standard-mode\n"
    file.write_text(file.read_text().replace(component, component + "  - ../../components/gpu\n"))
    for each in predictors(build(overlay)):
        resources = each.container["resources"]
        assert resources["limits"] == {"cpu": "4", "memory": "6Gi", "nvidia.com/gpu": "1"}
        assert resources["requests"] == {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}


@pytest.mark.parametrize(
    "component", ["admin-port", "api-keys", "jobs", "live", "long-requests", "tracing"]
)
def test_a_component_sets_the_same_in_a_runtime_and_in_a_container(component: str) -> None:
    folder = MANIFESTS / "components" / component
    in_runtime, in_container = (
        yaml.safe_load((folder / name).read_text()) for name in ("runtime.yaml", "container.yaml")
    )
    in_runtime, in_container = (
        [patch for patch in patches if "/metadata/" not in patch["path"]]
        for patches in (in_runtime, in_container)
    )
    for patch in in_container:
        patch["path"] = patch["path"].replace("/spec/predictor/", "/spec/", 1)
    assert in_container == in_runtime


def test_a_component_reaches_a_container_from_inside_the_overlay_and_from_outside(
    built: Any, tmp_path: Path
) -> None:
    inside = built(("dev-cpu", ("api-keys",)))
    outside = combine(tmp_path, ("api-keys",), "overlays/dev-cpu")
    for objects in (inside, outside):
        [predictor] = predictors(objects)
        assert predictor.container["args"].count("--api_keys_file=/etc/qwen3-asr/api-keys") == 1
        assert [each["name"] for each in predictor.pod["volumes"]].count("api-keys") == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_long_requests_are_as_long_for_the_server_as_for_the_route(
    overlay: str, built: Any
) -> None:
    for predictor, config in with_config(built((overlay, ("long-requests",)))):
        seconds = longest_request_s(predictor.container["args"], config)
        timeout = predictor.service["spec"]["predictor"]["timeout"]
        assert timeout - 30 <= seconds < timeout


def test_the_claim_holds_what_jobs_may_keep(knative: list[Object]) -> None:
    [claim] = of_kind(knative, "PersistentVolumeClaim")
    size = claim["spec"]["resources"]["requests"]["storage"]
    [argv] = [each.container["args"] for each in predictors(knative)]
    kept = load_settings(argv, {}).max_jobs_bytes
    assert int(size.removesuffix("Gi")) * 2**30 >= 1.5 * kept


def test_an_admin_port_is_scraped_and_nothing_else_leads_there(
    knative: list[Object], standard: list[Object]
) -> None:
    for objects in (knative, standard):
        port = load_settings(predictors(objects)[0].container["args"], {}).admin_port
        [monitor] = of_kind(objects, "PodMonitor")
        last = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"][-1]
        assert (last["targetLabel"], last["replacement"]) == ("__address__", f"$1:{port}")
        declared = [p["containerPort"] for p in predictors(objects)[0].container["ports"]]
        assert port not in declared
        [policy] = [p for p in of_kind(objects, "NetworkPolicy") if "Ingress" in str(p["spec"])]
        who = [r["from"] for r in policy["spec"]["ingress"] if {"port": port} in r["ports"]]
        monitoring = {"kubernetes.io/metadata.name": "monitoring"}
        assert who == [[{"namespaceSelector": {"matchLabels": monitoring}}]]


def test_a_model_that_is_ready_is_used_within_a_second(objects: list[Object]) -> None:
    for each in predictors(objects):
        startup = each.container["startupProbe"]
        assert startup["periodSeconds"] == 1
        assert startup["failureThreshold"] == 20 * 60


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_short(overlay: str) -> None:
    """A list of components and patches; whoever reads it sees what is deployed."""
    text = (MANIFESTS / "overlays" / overlay / "kustomization.yaml").read_text()
    assert len(text.splitlines()) <= 40
    assert yaml.safe_load(text)["resources"] == ["../../base"]


def test_the_cache_holds_what_is_served(knative: list[Object]) -> None:
    [cache] = of_kind(knative, "LocalModelCache")
    assert cache["spec"]["sourceModelUri"] == predictors(knative)[0].spec["model"]["storageUri"]


def test_promoting_on_knative_changes_nothing_but_the_traffic(built: Any) -> None:
    """Another annotation or field of the pod would make a third revision, which starts cold."""
    for overlay in ("dev-cpu", "production"):
        plain, canary = built(f"overlays/{overlay}"), built((overlay, ("canary-knative",)))
        [service] = of_kind(canary, "InferenceService")
        assert service["spec"]["predictor"].pop("canaryTrafficPercent") == 0
        assert canary == plain


def test_a_changed_configuration_rolls_out(standard: list[Object]) -> None:
    """The ConfigMap's hash is part of the name that the runtime mounts."""
    [mounted] = [
        volume["configMap"]["name"]
        for volume in predictors(standard)[0].pod["volumes"]
        if "configMap" in volume
    ]
    assert mounted.startswith("qwen3-asr-config-")
    assert mounted in {each["metadata"]["name"] for each in of_kind(standard, "ConfigMap")}
