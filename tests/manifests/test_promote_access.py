"""The `promote` pipeline may do what it does, and no more."""

from __future__ import annotations

from kubernetes import client
from starlette.routing import Route

from pipelines.rollout.cluster import PLURAL, Cluster
from tests.manifests.conftest import needs_kustomize
from tests.manifests.objects import Object, of_kind
from tests.pipelines.fake_cluster import FakeCluster
from tests.pipelines.fake_controller import inference_service

pytestmark = needs_kustomize
VERBS = {"GET": "get", "PUT": "update", "POST": "create"}


def needed(cluster: Cluster) -> set[tuple[str, str, str | None, str]]:
    """Group, resource, object, verb: what a rollout calls. The API that it is tested against has
    these routes and no others; whoever creates an object cannot be held to its name."""
    names = {PLURAL: cluster.name, "configmaps": cluster.state_name, "leases": cluster.state_name}
    found = set()
    for route in FakeCluster(inference_service("Knative", "s3://m")).app().routes:
        assert isinstance(route, Route)
        _, root, group, *_ = route.path.split("/")
        group = group if root == "apis" else ""
        resource = next(each for each in route.path.split("/") if each in names)
        name = names[resource] if route.path.endswith("{name}") else None
        methods = (route.methods or set()) - {"HEAD"}
        found |= {(group, resource, name, VERBS[method]) for method in methods}
    return found


def test_the_role_is_what_a_rollout_calls(knative: list[Object]) -> None:
    [service] = of_kind(knative, "InferenceService")
    [role] = of_kind(knative, "Role")
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    assert role["metadata"]["namespace"] == namespace
    allowed = {
        (group, resource, named, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for named in rule.get("resourceNames", [None])
        for verb in rule["verbs"]
    }
    assert allowed == needed(Cluster(client.ApiClient(), namespace, name))


def test_it_is_given_to_the_steps_of_a_run(knative: list[Object]) -> None:
    [binding] = of_kind(knative, "RoleBinding")
    subjects = [(s["kind"], s["namespace"], s["name"]) for s in binding["subjects"]]
    assert subjects == [("ServiceAccount", "kubeflow", "pipeline-runner")]
