"""Components on a cluster: each that dev-cpu takes starts and answers; keys; metrics."""

from __future__ import annotations

import base64
import os
import secrets

import httpx
import pytest

from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.deployment import Deployment
from tests.cluster.service_api import Object, Refused
from tests.cluster.status import is_ready
from tests.manifests.combinations import ADDED, WEIGHTS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
NAME = "qwen3-asr-api-keys"
# Alone in tests of their own: canary-knative is a patch of test_knative.py, jobs of test_jobs.py.
ALONE = [name for name in ADDED["dev-cpu"] if name not in ("canary-knative", "jobs", "api-keys")]
# Weights are from a claim here; a canary in Standard mode is a test of test_standard.py.
ELSEWHERE = (*WEIGHTS, "canary-standard")
WEIGHTS_IMAGE = os.environ.get("QWEN3_ASR_WEIGHTS_IMAGE", "dev.local/qwen3-asr/weights:tiny")
ADMIN = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8082/metrics').read().decode())"
)


def keys(**named: str) -> Object:
    """The Secret that the component api-keys mounts."""
    data = {name: base64.b64encode(key.encode()).decode() for name, key in named.items()}
    metadata = {"name": NAME}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def serves(deployment: Deployment, record: Record) -> None:
    """Ready, and it transcribes."""
    ready = deployment.service.wait("the service ready", is_ready)
    answer = deployment.client(ready["status"]["url"]).transcribe()
    assert answer.status_code == 200, answer.text
    record["missing"] = deployment.missing


@pytest.mark.parametrize("component", ALONE)
def test_a_component_starts_and_answers(component: str, deploy: Deploy, record: Record) -> None:
    serves(deploy("dev-cpu", (component,)), record)


@pytest.mark.parametrize("overlay", ["dev-cpu", "edge", "production", "production-standard"])
def test_all_components_together_start_and_answer(
    overlay: str, deploy: Deploy, record: Record
) -> None:
    """All that the table offers for an overlay, but for weights that come as images."""
    key = secrets.token_urlsafe()
    components = tuple(name for name in ADDED[overlay] if name not in ELSEWHERE)
    weights = None if overlay == "dev-cpu" else "tiny"
    deployment = deploy(overlay, components, weights=weights, beside=(keys(team=key),))
    ready = deployment.service.wait("the service ready", is_ready)
    answer = deployment.client(ready["status"]["url"]).transcribe(key)
    assert answer.status_code == 200, answer.text
    record["missing"] = deployment.missing


@pytest.mark.parametrize("overlay", ["edge", "production"])
def test_weights_come_from_a_container_beside_the_server(
    overlay: str, deploy: Deploy, record: Record
) -> None:
    """Reached through its process, so that both must be of one user and one group."""
    serves(deploy(overlay, ("modelcar",), weights=f"oci://{WEIGHTS_IMAGE}"), record)


@pytest.mark.parametrize("overlay", ["edge", "production"])
def test_weights_come_from_an_image_that_is_mounted(
    overlay: str, deploy: Deploy, target: Target, record: Record
) -> None:
    if (lacking := without_image_volumes(target)) is not None:
        pytest.skip(lacking)
    deployment = deploy(overlay, ("image-volume",), weights=f"oci+native://{WEIGHTS_IMAGE}")
    serves(deployment, record)
    [pod] = deployment.service.pods()
    assert "modelcar" not in {each.name for each in pod.spec.containers}


def without_image_volumes(target: Target) -> str | None:
    """Why images cannot be mounted here; None where they can."""
    runtime = target.versions.get("containerd", "9")
    if tuple(map(int, runtime.split(".")[:2])) < (2, 1):
        return f"containerd {runtime} mounts no images"
    volume = {"name": "it", "image": {"reference": WEIGHTS_IMAGE}}
    spec = {"containers": [{"name": "it", "image": target.image}], "volumes": [volume]}
    metadata = {"name": "it", "namespace": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    try:
        target.cluster.create_dry(pod)
    except Refused as refused:
        return f"the API server knows no image volumes: {refused}"
    return None


def test_keys_are_asked_for_and_change_without_a_restart(
    deploy: Deploy, target: Target, record: Record
) -> None:
    old, new = secrets.token_urlsafe(), secrets.token_urlsafe()
    deployment = deploy("dev-cpu", ("api-keys",), beside=(keys(team=old),))
    ready = deployment.service.wait("the service ready", is_ready)
    main = deployment.client(ready["status"]["url"])
    pods = {pod.metadata.name for pod in deployment.service.pods()}
    assert main.transcribe().status_code == 401
    assert main.transcribe(old).status_code == 200
    changed = keys(team=new)
    changed["metadata"]["namespace"] = deployment.namespace
    target.cluster.apply([changed])

    def is_taken(response: httpx.Response) -> bool:
        return response.status_code == 200

    main.until(
        "the new key", is_taken, lambda: main.transcribe(new)
    )  # the kubelet looks each minute
    assert main.transcribe(old).status_code == 401
    assert {pod.metadata.name for pod in deployment.service.pods()} == pods


@pytest.mark.usefixtures("record")
def test_metrics_are_on_the_admin_port_only(deploy: Deploy, target: Target) -> None:
    deployment = deploy("dev-cpu", ("monitoring", "admin-port"))
    ready = deployment.service.wait("the service ready", is_ready)
    assert deployment.client(ready["status"]["url"]).get("/metrics").status_code == 404
    [pod] = deployment.service.pods()
    asking = ["python", "-c", ADMIN]
    said = target.run_in(deployment.namespace, pod.metadata.name, asking)
    assert "qwen3_asr_" in said
