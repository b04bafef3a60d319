"""A Knative revision or a Deployment of the fake cluster, with its pods."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.manifests import knative_rules
from tests.manifests.objects import Predictor

Object = dict[str, Any]
FLAGS = frozenset(
    {
        *knative_rules.POD_FLAGS.values(),
        *knative_rules.VOLUME_FLAGS.values(),
        knative_rules.WRITE_FLAG,
    }
)
MISSING = "nowhere"  # a folder that no claim has
_NEXT = itertools.count(1)


@dataclass
class Workload:
    """A Knative revision or a Deployment, with its pods."""

    name: str
    predictor: Predictor
    age: int = 0  # turns of the controllers
    pods: list[str] = field(default_factory=list)

    @property
    def identity(self) -> str:
        """What it serves: by its claim's folder, or the folder in the image."""
        model = self.predictor.spec.get("model", {})
        folder = model.get("storageUri") or next(
            arg for arg in self.predictor.container["args"] if arg.startswith("--model_dir=")
        )
        return Path(folder).name

    @property
    def template(self) -> Object:
        return template_of(self.predictor)

    @property
    def is_there(self) -> bool:
        """Whether it can ever serve: the storage initializer finds its weights, or those beside it
        are of its group, without which the kernel refuses them (seen on a node)."""
        is_beside = self.predictor.spec.get("model", {}).get("storageUri", "").startswith("oci://")
        pods = self.predictor.spec.get("securityContext", {})
        own = self.predictor.container["securityContext"]["runAsGroup"]
        fits = "runAsUser" in pods and pods.get("runAsGroup") == own
        return self.identity != MISSING and (fits or not is_beside)

    @property
    def floor(self) -> int:
        return int(self.predictor.spec.get("minReplicas", 1))

    @property
    def first(self) -> int:
        """Pods that a new revision starts, and must have before it is ready."""
        annotations = self.predictor.service["metadata"].get("annotations", {})
        return max(int(annotations.get(knative_rules.SCALING + "initial-scale", 1)), self.floor)

    def start_pod(self) -> None:
        self.pods.append(f"{self.name}-{next(_NEXT)}")


def template_of(predictor: Predictor) -> Object:
    """What a Deployment's pods are made from; the weights are an annotation there."""
    return {"pod": predictor.pod, "weights": predictor.spec.get("model", {}).get("storageUri")}


def address_of(pod: str) -> str:
    """A pod's own address, by the number at the end of its name."""
    number = int(pod.rsplit("-", 1)[1])
    return f"10.0.{number // 250}.{number % 250 + 1}"
