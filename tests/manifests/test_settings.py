"""A user's overlay: another namespace and its settings reach every place, in every combination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.conftest import EXTENDED, OVERLAYS, needs_kustomize
from tests.manifests.objects import MANIFESTS, Object, build, of_kind
from tests.manifests.queries import our_series, scaler_queries
from tests.manifests.test_overlays import broken_rules
from tests.manifests.user_overlay import DEFAULTS, UserOverlay

pytestmark = needs_kustomize
NAMESPACE = "speech"
CLUSTER_WIDE = {"LocalModelCache", "LocalModelNodeGroup"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = {
    "storageUri": f"hf://Qwen/Qwen3-ASR-0.6B-hf:{COMMIT}",
    "monitoringNamespace": "watching",
    "prometheusAddress": "http://mimir.watching.svc.cluster.local:8080/prometheus",
    "prometheusRelease": "kube-prometheus",
    "tracesNamespace": "tracing",
    "tracesAddress": "http://tempo.tracing.svc.cluster.local:4318",
    "pipelinesNamespace": "team-a",
    "pipelinesAccount": "default-editor",
    "jobsAccess": "ReadWriteOnce",
}


def of_a_user(
    folder: Path,
    overlay: str,
    components: tuple[str, ...],
    settings: Mapping[str, str] = SETTINGS,
) -> list[Object]:
    return UserOverlay(overlay, components, NAMESPACE, settings).build(folder)


def strings(node: Any) -> Iterator[str]:
    """Every string inside an object, dashboards aside, whose variables Grafana fills in."""
    if isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str) and not node.startswith("{"):
        yield node


def namespaces(node: Any) -> Iterator[str]:
    """Every value of a key that names a namespace."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "namespace" and isinstance(value, str):
                yield value
            yield from namespaces(value)
    elif isinstance(node, list):
        for value in node:
            yield from namespaces(value)


@pytest.mark.parametrize(
    ("overlay", "components"), [*((name, ()) for name in OVERLAYS), *EXTENDED], ids=str
)
def test_everything_follows(overlay: str, components: tuple[str, ...], tmp_path: Path) -> None:
    objects = of_a_user(tmp_path, overlay, components)
    for each in objects:
        if each["kind"] not in CLUSTER_WIDE | {"Namespace"}:
            assert each["metadata"]["namespace"] == NAMESPACE, each["metadata"]["name"]
    assert [each["metadata"]["name"] for each in of_kind(objects, "Namespace")] == [NAMESPACE]
    assert set(namespaces(objects)) <= {NAMESPACE, SETTINGS["pipelinesNamespace"]}
    made = {each["metadata"]["name"] for each in of_kind(objects, "ConfigMap")}
    assert "qwen3-asr-settings" not in made
    text = "\n".join(strings(objects))
    for name, value in DEFAULTS.items():
        if name == "storageUri" and {"modelcar", "image-volume"} & set(components):
            continue
        if name != "prometheusRelease":  # a scaler's backend has that name too
            assert value not in text.splitlines(), name
    releases = {each["metadata"].get("labels", {}).get("release") for each in objects}
    assert releases <= {None, SETTINGS["prometheusRelease"]}
    assert 'namespace="qwen3-asr"' not in text
    assert list(broken_rules(objects)) == []


def test_the_scaler_asks_for_its_own_namespace(tmp_path: Path) -> None:
    objects = of_a_user(tmp_path, "production-standard", ())
    [(_, query)] = scaler_queries(objects)
    assert query.count(f'namespace="{NAMESPACE}"') == 1
    assert "qwen3_asr_load" in our_series()


def test_the_settings_reach_what_they_are_for(tmp_path: Path) -> None:
    """Each of them is somewhere in what all components make."""
    components = ("tracing", "promote-access", "model-cache", "jobs")
    objects = of_a_user(tmp_path, "production-standard", components)
    found = set(strings(objects))
    assert set(SETTINGS.values()) <= found


def test_the_example_builds_as_it_is() -> None:
    objects = build(MANIFESTS / "example")
    [service] = of_kind(objects, "InferenceService")
    assert service["metadata"]["namespace"] == "speech"
    assert list(broken_rules(objects)) == []


def test_a_forgotten_setting_is_an_error(tmp_path: Path) -> None:
    settings = {k: v for k, v in SETTINGS.items() if k != "prometheusAddress"}
    with pytest.raises(ValueError, match="prometheusAddress"):
        of_a_user(tmp_path, "production-standard", (), settings)
