"""What stands around a service: addresses from inside, network policy, who is scraped."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.deployment import job, wait_for_job
from tests.cluster.service_api import Object
from tests.cluster.status import is_ready
from tests.manifests.objects import of_kind

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
CLIENT_LABEL = "qwen3-asr/client"
# Asks until it is answered: a new pod is let through only once who enforces policies has seen it.
ASK = """
import sys, time, urllib.request
ends = time.monotonic() + 30
while True:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=10).read()
        break
    except OSError:
        if time.monotonic() > ends:
            raise
        time.sleep(0.5)
"""


def can_reach(target: Target, namespace: str, name: str, url: str) -> bool:
    """Whether a pod of a namespace gets an answer from an address, within half a minute."""
    server = {
        "name": "ask",
        "image": target.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", ASK, url],
    }
    pod = {"restartPolicy": "Never", "containers": [server]}
    target.cluster.apply([job(namespace, name, pod, retries=0)])
    return wait_for_job(target.cluster, namespace, name)


@pytest.mark.usefixtures("record")
def test_the_address_of_the_status_works_from_inside(deploy: Deploy, target: Target) -> None:
    """And not NAME.NAMESPACE.svc, which exists with Istio only."""
    deployment = deploy("dev-cpu")
    service = deployment.service.wait("the service ready", is_ready)
    address = service["status"]["address"]["url"]
    assert f"{deployment.service.name}-predictor.{deployment.namespace}" in address
    assert can_reach(target, deployment.namespace, "ask", f"{address}/v2/health/live")


def test_nothing_reaches_a_pod_but_what_is_listed(
    deploy: Deploy, target: Target, record: Record
) -> None:
    deployment = deploy("dev-cpu", ("network-policy",))
    deployment.service.wait("the service ready", is_ready)
    strangers, clients = f"{deployment.namespace}-out", f"{deployment.namespace}-in"
    for name, labels in ((strangers, {}), (clients, {CLIENT_LABEL: "true"})):
        metadata = {"name": name, "labels": labels}
        target.cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
    try:
        address = deployment.service.pods()[0].status.pod_ip
        url = f"http://{address}:8080/v2/health/live"
        if can_reach(target, strangers, "ask", url):
            pytest.skip("nothing enforces network policies here: a stranger's request came through")
        assert can_reach(target, clients, "ask", url)
        record["enforced"] = True
    finally:
        for name in (strangers, clients):
            target.cluster.core.delete_namespace(name)


@pytest.mark.usefixtures("record")
def test_the_pod_monitor_selects_the_predictors_pods(deploy: Deploy, target: Target) -> None:
    deployment = deploy("dev-cpu", ("monitoring",))
    deployment.service.wait("the service ready", is_ready)
    [monitor] = of_kind(deployment.objects, "PodMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    port = monitor["spec"]["podMetricsEndpoints"][0]["portNumber"]
    pods = deployment.service.pods()
    assert pods
    for pod in pods:
        assert wanted <= pod.metadata.labels.items()
        ports = [p.container_port for c in pod.spec.containers for p in c.ports or []]
        assert port in ports
    if "PodMonitor" in deployment.missing:
        pytest.skip("the cluster has no PodMonitor: only the labels were compared")
    for each in prometheuses(target):
        selector = each["spec"].get("podMonitorSelector", {}).get("matchLabels", {})
        assert selector.items() <= monitor["metadata"]["labels"].items(), each["metadata"]["name"]


def prometheuses(target: Target) -> list[Object]:
    listed = target.cluster.custom.list_cluster_custom_object(
        "monitoring.coreos.com", "v1", "prometheuses"
    )
    found: list[Object] = listed["items"]
    return found
