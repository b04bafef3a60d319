"""One InferenceService on a cluster, through the Kubernetes API: apply, patch, watch, count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kubernetes import client, watch

Object = dict[str, Any]
GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
MANAGER = "qwen3-asr-cluster-test"
_PLURALS = {"NetworkPolicy": "networkpolicies"}
_CLUSTER_WIDE = frozenset({"Namespace", "LocalModelCache", "LocalModelNodeGroup"})


class Refused(Exception):
    """The API server or a webhook said no; the message is theirs."""


class Missing(Exception):
    """The cluster does not know this kind of object."""


def path_of(each: Object) -> str:
    """Where an object lives in the API."""
    prefix = "api" if "/" not in each["apiVersion"] else "apis"
    plural = _PLURALS.get(each["kind"], each["kind"].lower() + "s")
    where = f"namespaces/{each['metadata'].get('namespace')}/"
    where = "" if each["kind"] in _CLUSTER_WIDE else where
    return f"/{prefix}/{each['apiVersion']}/{where}{plural}/{each['metadata']['name']}"


def watched(listing: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Events of a watch; it is begun again where the API server's cache is behind its store."""
    while True:
        try:
            yield from watch.Watch().stream(listing, *args, **kwargs)
            return
        except client.ApiException as error:
            if error.status != 504:
                raise


class Cluster:
    """What the tests ask of a cluster beside one service."""

    def __init__(self, api: client.ApiClient) -> None:
        self.api = api
        self.core = client.CoreV1Api(api)
        self.custom = client.CustomObjectsApi(api)

    def apply(self, objects: list[Object], dry_run: bool = False) -> None:
        """Server-side apply, namespaces first. Raises Refused and Missing."""
        for each in sorted(objects, key=lambda each: each["kind"] != "Namespace"):
            self._call("PATCH", each, [("force", "true")] + [("dryRun", "All")] * dry_run)

    def create_dry(self, each: Object) -> None:
        """Whether an object would be created, all webhooks asked. Raises Refused and Missing."""
        self._call("POST", each, [("dryRun", "All")])

    def _call(self, method: str, each: Object, query: list[tuple[str, str]]) -> None:
        path = path_of(each)
        kind = "application/apply-patch+yaml"
        if method == "POST":
            path, kind = path.rsplit("/", 1)[0], "application/json"
        try:
            self.api.call_api(
                path,
                method,
                query_params=[("fieldManager", MANAGER), *query],
                header_params={"Content-Type": kind, "Accept": "application/json"},
                body=each,
                auth_settings=["BearerToken"],
                response_type="object",
            )
        except client.ApiException as error:
            what = f"{each['kind']} {each['metadata']['name']}: {error.body}"
            missing = error.status == 404 and "namespaces" not in str(error.body)
            raise (Missing if missing else Refused)(what) from error

    def namespace_exists(self, name: str) -> bool:
        return bool(self.core.list_namespace(field_selector=f"metadata.name={name}").items)

    def delete_namespace(self, name: str, timeout_s: int = 600) -> None:
        """Services first and their pods: a namespace waits in turns of half a pod's grace."""
        listed = self.custom.list_namespaced_custom_object(GROUP, VERSION, name, PLURAL)
        for each in listed["items"]:
            service = each["metadata"]["name"]
            self.custom.delete_namespaced_custom_object(GROUP, VERSION, name, PLURAL, service)
            Service(self, name, service).wait_for_pods(0, timeout_s)
        self.core.delete_namespace(name)
        events = watched(
            self.core.list_namespace,
            field_selector=f"metadata.name={name}",
            timeout_seconds=timeout_s,
        )
        for event in events:
            if event["type"] == "DELETED":
                return
        if self.namespace_exists(name):
            raise TimeoutError(f"not within {timeout_s} s: the namespace {name} is gone")


class Service:
    """The InferenceService `name` in `namespace`."""

    def __init__(self, cluster: Cluster, namespace: str, name: str = "qwen3-asr") -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name

    @property
    def _selector(self) -> str:
        return f"serving.kserve.io/inferenceservice={self.name}"

    def read(self) -> Object:
        found: Object = self.cluster.custom.get_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, self.name
        )
        return found

    def patch(self, body: Object) -> None:
        """JSON merge patch: None removes a field."""
        self.cluster.custom.patch_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, self.name, body
        )

    def wait(self, what: str, holds: Callable[[Object], bool], timeout_s: int = 900) -> Object:
        """The service as soon as `holds` is true of it. Raises TimeoutError naming `what`."""
        found: Object = {}
        events = watched(
            self.cluster.custom.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            PLURAL,
            field_selector=f"metadata.name={self.name}",
            timeout_seconds=timeout_s,
        )
        for event in events:
            found = event["object"]
            if holds(found):
                return found
        raise TimeoutError(f"not within {timeout_s} s: {what}; status {found.get('status')}")

    def pods(self) -> list[Any]:
        """Its pods, as the client's objects."""
        listed = self.cluster.core.list_namespaced_pod(
            self.namespace, label_selector=self._selector
        )
        found: list[Any] = listed.items
        return found

    def num_ready(self) -> int:
        """How many of its pods take requests."""
        listed = [pod for pod in self.pods() if pod.metadata.deletion_timestamp is None]
        conditions = [each for pod in listed for each in pod.status.conditions or []]
        return sum((each.type, each.status) == ("Ready", "True") for each in conditions)

    def wait_for_pods(self, number: int, timeout_s: int = 600) -> None:
        """Until exactly `number` pods of the predictor exist."""
        listed = self.cluster.core.list_namespaced_pod(
            self.namespace, label_selector=self._selector
        )
        names = {pod.metadata.name for pod in listed.items}
        if len(names) == number:
            return
        events = watched(
            self.cluster.core.list_namespaced_pod,
            self.namespace,
            label_selector=self._selector,
            resource_version=listed.metadata.resource_version,
            timeout_seconds=timeout_s,
        )
        for event in events:
            name = event["object"].metadata.name
            names = names - {name} if event["type"] == "DELETED" else names | {name}
            if len(names) == number:
                return
        raise TimeoutError(f"not within {timeout_s} s: {number} pods, there are {sorted(names)}")

    def delete_pod(self, name: str) -> None:
        self.cluster.core.delete_namespaced_pod(name, self.namespace)
