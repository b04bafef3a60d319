"""Overlays made to fit a small node: their own namespace, no GPU, weights from a claim."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes import client

from tests.cluster.answers import Client
from tests.cluster.service_api import Cluster, Missing, Service, watched
from tests.manifests.objects import Object, containers_of, of_kind
from tests.manifests.user_overlay import DEFAULTS, UserOverlay

CLAIM = "checkpoints"
SMALL = {
    "requests": {"cpu": "100m", "memory": "1200Mi"},
    "limits": {"cpu": "2", "memory": "2Gi"},
}
ONE_NODE = {"jobsAccess": "ReadWriteOnce"}  # a test cluster's default StorageClass has no more
_OURS = "/qwen3-asr/predictor"
# Kinds that a cluster may lack without harm to what is tried here; the results name them.
OPTIONAL = ("PodMonitor", "PrometheusRule", "LocalModelCache", "LocalModelNodeGroup")


def fit(objects: list[Object], image: str, weights: str | None) -> list[Object]:
    """The same objects without GPU, node affinity and taints, small, with other weights."""
    fitted = copy.deepcopy(objects)
    for each in fitted:
        for container in containers_of(each):
            if _OURS in container.get("image", ""):
                container["image"] = image
                container["resources"] = copy.deepcopy(SMALL)
        for node in _nodes(each):
            node.pop("tolerations", None)
            if "nodeAffinity" in node.get("affinity", {}):
                del node["affinity"]["nodeAffinity"]
    for service in of_kind(fitted, "InferenceService"):
        predictor = service["spec"]["predictor"]
        if weights is not None and "model" in predictor:
            predictor["model"]["storageUri"] = weights
    return fitted


def _nodes(node: Any) -> Iterator[Object]:
    """Every mapping inside an object, itself included."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def claim(namespace: str, image: str) -> list[Object]:
    """A claim and the job that copies the image's checkpoints onto it."""
    metadata = {"name": CLAIM, "namespace": namespace}
    volume = {"name": "claim", "persistentVolumeClaim": {"claimName": CLAIM}}
    copying = {
        "name": "copy",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "cp -r /app/checkpoints/. /claim/ && chmod -R a+rX /claim"],
        "volumeMounts": [{"name": "claim", "mountPath": "/claim"}],
        "securityContext": {"runAsUser": 0},
    }
    pod = {"restartPolicy": "OnFailure", "containers": [copying], "volumes": [volume]}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec},
        job(namespace, CLAIM, pod),
    ]


def job(namespace: str, name: str, pod: Object, retries: int = 3) -> Object:
    spec = {"backoffLimit": retries, "template": {"spec": pod}}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def wait_for_job(cluster: Cluster, namespace: str, name: str, timeout_s: int = 600) -> bool:
    """Whether a job succeeded, once it has ended. Raises TimeoutError."""
    jobs = client.BatchV1Api(cluster.api)
    events = watched(
        jobs.list_namespaced_job,
        namespace,
        field_selector=f"metadata.name={name}",
        timeout_seconds=timeout_s,
    )
    for event in events:
        status = event["object"].status
        if status.succeeded:
            return True
        if any(each.type == "Failed" for each in status.conditions or []):
            return False
    raise TimeoutError(f"not within {timeout_s} s: the job {namespace}/{name} has ended")


@dataclass
class Deployment:
    """An overlay on the cluster."""

    service: Service
    objects: list[Object]
    missing: list[str]  # kinds that the cluster does not know
    client: Callable[[str], Client]
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.service.namespace


@dataclass(frozen=True)
class Request:
    """What to deploy."""

    overlay: str
    components: tuple[str, ...] = ()
    weights: str | None = None  # a folder of the claim, such as "tiny", or an address
    change: Callable[[Object], None] | None = None  # to the InferenceService before it is applied
    settings: Mapping[str, str] = field(default_factory=dict)  # beside the example's
    beside: tuple[Object, ...] = ()  # applied before it, such as Secrets

    @property
    def is_from_claim(self) -> bool:
        return self.weights is not None and "://" not in self.weights


def built(request: Request, namespace: str, image: str, folder: Path) -> list[Object]:
    """The objects of a request, fitted to a small node."""
    settings = {**DEFAULTS, **ONE_NODE, **request.settings}
    overlay = UserOverlay(request.overlay, request.components, namespace, settings)
    weights = f"pvc://{CLAIM}/{request.weights}" if request.is_from_claim else request.weights
    objects = fit(overlay.build(folder), image, weights)
    if request.change is not None:
        request.change(of_kind(objects, "InferenceService")[0])
    beside = copy.deepcopy(list(request.beside))
    for each in beside:
        each["metadata"]["namespace"] = namespace
    return [*beside, *objects]


def put(cluster: Cluster, objects: list[Object]) -> list[str]:
    """Applies them, and returns the optional kinds that the cluster lacks. Raises Missing."""
    lacking = []
    order = {"Namespace": 0, "Secret": 1}
    for each in sorted(objects, key=lambda each: order.get(each["kind"], 2)):
        try:
            cluster.apply([each])
        except Missing:
            if each["kind"] not in OPTIONAL:
                raise
            lacking.append(each["kind"])
    return lacking
