"""One InferenceService on a real cluster: apply, patch, watch, and callers that count failures."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from kubernetes import client, dynamic, watch

Object = dict[str, Any]
GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
MANAGER = "qwen3-asr-cluster-test"


@dataclass(frozen=True)
class Entry:
    """The HTTP way in: an address, or None where the service's own host name resolves."""

    address: str | None  # such as http://127.0.0.1:8080, a gateway or a port-forward to it

    def request_to(self, url: str, path: str) -> tuple[str, dict[str, str]]:
        """(address to call, headers) that reach `path` of a service URL from its status."""
        if self.address is None:
            return url.rstrip("/") + path, {}
        return self.address.rstrip("/") + path, {"Host": urlsplit(url).netloc}


class Service:
    """The InferenceService `name` in `namespace`, through the Kubernetes API only."""

    def __init__(self, api: client.ApiClient, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self._custom = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._dynamic = dynamic.DynamicClient(api)

    def apply(self, objects: list[Object]) -> None:
        """Server-side apply, namespaces first."""
        for each in sorted(objects, key=lambda each: each["kind"] != "Namespace"):
            resource = self._dynamic.resources.get(
                api_version=each["apiVersion"], kind=each["kind"]
            )
            resource.server_side_apply(
                body=each,
                name=each["metadata"]["name"],
                namespace=each["metadata"].get("namespace"),
                field_manager=MANAGER,
                force_conflicts=True,
            )

    def patch(self, body: Object) -> None:
        """JSON merge patch: None removes a field."""
        self._custom.patch_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, self.name, body
        )

    def namespace_exists(self) -> bool:
        names = f"metadata.name={self.namespace}"
        return bool(self._core.list_namespace(field_selector=names).items)

    def delete_namespace(self) -> None:
        self._core.delete_namespace(self.namespace)

    def wait(self, what: str, holds: Callable[[Object], bool], timeout_s: int = 900) -> Object:
        """The service as soon as `holds` is true of it. Raises TimeoutError naming `what`."""
        found: Object = {}
        events = watch.Watch().stream(
            self._custom.list_namespaced_custom_object,
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

    def wait_for_pods(self, number: int, timeout_s: int = 600) -> None:
        """Until exactly `number` pods of the predictor exist."""
        selector = f"serving.kserve.io/inferenceservice={self.name}"
        listed = self._core.list_namespaced_pod(self.namespace, label_selector=selector)
        names = {pod.metadata.name for pod in listed.items}
        if len(names) == number:
            return
        events = watch.Watch().stream(
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=selector,
            resource_version=listed.metadata.resource_version,
            timeout_seconds=timeout_s,
        )
        for event in events:
            name = event["object"].metadata.name
            names = names - {name} if event["type"] == "DELETED" else names | {name}
            if len(names) == number:
                return
        raise TimeoutError(f"not within {timeout_s} s: {number} pods, there are {sorted(names)}")


# What the status must say. Each is judged by what the controller made of a change and not by
# status.observedGeneration, which counts the Knative service's changes (kserve/kserve 6081).
Holds = Callable[[Object], bool]


def predictor_status(service: Object) -> Object:
    found: Object = service.get("status", {}).get("components", {}).get("predictor", {})
    return found


def is_ready(service: Object) -> bool:
    """Ready, and the newest revision is the one that is."""
    conditions = {e["type"]: e["status"] for e in service.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and newest(service) is not None


def newest(service: Object) -> str | None:
    """Name of the newest revision once it is ready; None while it is not."""
    status = predictor_status(service)
    created = status.get("latestCreatedRevision")
    return created if created and created == status.get("latestReadyRevision") else None


def revisions(service: Object) -> set[str]:
    """Those that the status knows: the newest, and all that have an address or traffic."""
    return {each["revisionName"] for each in traffic(service)} | {str(newest(service))}


def traffic(service: Object) -> list[Object]:
    """Knative's traffic targets: revisionName, percent, tag, url, latestRevision."""
    targets: list[Object] = predictor_status(service).get("traffic", [])
    return targets


def split(service: Object) -> dict[str, int]:
    """Percent of the traffic by revision; the same revision may be a target twice."""
    shares: Counter[str] = Counter()
    for target in traffic(service):
        shares[target["revisionName"]] += target.get("percent") or 0
    return {name: percent for name, percent in shares.items() if percent}


def tag_url(service: Object, tag: str) -> str:
    urls = [each["url"] for each in traffic(service) if each.get("tag") == tag]
    if not urls:
        raise LookupError(f"no traffic target with the tag {tag}: {traffic(service)}")
    return str(urls[0])


def dark_beside(stable: str) -> Holds:
    """A newer revision is ready and has an address of its own, and no traffic."""

    def holds(service: Object) -> bool:
        tags = {each.get("tag") for each in traffic(service)}
        is_new = is_ready(service) and newest(service) != stable
        return is_new and split(service) == {stable: 100} and {"latest", "prev"} <= tags

    return holds


def shared(shares: dict[str, int]) -> Holds:
    """The traffic is split so, by revision."""
    return lambda service: is_ready(service) and split(service) == shares


def promoted(revision: str) -> Holds:
    """It gets everything, and KServe remembers it as rolled out: what a way back starts from."""

    def holds(service: Object) -> bool:
        rolled_out = predictor_status(service).get("latestRolledoutRevision")
        return shared({revision: 100})(service) and rolled_out == revision

    return holds


def replaced(revisions: set[str]) -> Holds:
    """A revision that is none of these gets everything."""

    def holds(service: Object) -> bool:
        new = newest(service)
        return new is not None and new not in revisions and shared({new: 100})(service)

    return holds


@dataclass
class Caller:
    """Calls again and again on a thread of its own until the block ends; counts the answers."""

    call: Callable[[], httpx.Response]
    codes: Counter[int | str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caller")

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            try:
                response = self.call()
            except httpx.HTTPError as error:
                self.codes[type(error).__name__] += 1
                self.failures.append(f"{time.strftime('%X')} {error!r}")
                continue
            self.codes[response.status_code] += 1
            if response.status_code != 200:
                self.failures.append(
                    f"{time.strftime('%X')} {response.status_code} {response.text}"
                )

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def label_of(metrics_page: str, series: str, label: str) -> str:
    """A label's value of the first sample of a series on a metrics page."""
    for line in metrics_page.splitlines():
        if line.startswith(series + "{"):
            pairs: Mapping[str, str] = dict(
                pair.split("=", 1) for pair in line[len(series) + 1 : line.rindex("}")].split(",")
            )
            return pairs[label].strip('"')
    raise LookupError(f"no series {series} on the page")
