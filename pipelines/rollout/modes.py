"""What the two deployment modes have in common: the questions a rollout asks of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.lib.errors import RolloutError
from pipelines.rollout.cluster import InferenceService
from pipelines.rollout.state import Phase, Predictor, State

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
MODE_NAMES = {
    "Knative": "Knative",
    "Serverless": "Knative",  # the names before KServe 0.16
    "Standard": "Standard",
    "RawDeployment": "Standard",
}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """URLs under which each version answers whatever the traffic split is."""

    stable: str
    candidate: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Whether the cluster has become what the state asks for, and what is still missing."""

    settled: bool
    message: str


class Mode(Protocol):
    """How a deployment mode splits traffic."""

    name: str
    split_must_be_seen: bool  # there are releases whose status says a split that is none

    def check_startable(self, service: InferenceService) -> str:
        """The stable version's name; RolloutError when a canary could not be started safely."""

    def prepare(self, service: InferenceService, candidate: Predictor) -> Predictor:
        """The candidate's predictor as it will be applied."""

    def revert(self, service: InferenceService, state: State) -> State:
        """The state from which the version before a promotion comes back, whatever runs now."""

    def apply(self, service: InferenceService, state: State) -> None:
        """Change the InferenceService into what the state asks for, in place."""

    def progress(self, service: InferenceService, state: State) -> Progress:
        """Compare the status with the state."""

    def candidate_version(self, service: InferenceService, state: State) -> str | None:
        """The candidate's Knative revision or Deployment, once it exists and is ready."""

    def newest_version(self, service: InferenceService) -> str | None:
        """The version that was made last, ready or not."""

    def endpoints(self, service: InferenceService, state: State) -> Endpoints:
        """Addresses of both versions while the candidate is dark or has a share."""


def mode_name(service: InferenceService) -> str:
    """ "Knative" or "Standard", by annotation or status. RolloutError when neither says."""
    annotations = service["metadata"].get("annotations") or {}
    said = annotations.get(MODE_ANNOTATION) or service.get("status", {}).get("deploymentMode")
    if said not in MODE_NAMES:
        raise RolloutError(
            f"InferenceService {service['metadata']['name']}: annotation {MODE_ANNOTATION} is "
            f"{said!r}, it must be one of {', '.join(MODE_NAMES)}"
        )
    return MODE_NAMES[said]


def main_url(service: InferenceService, *, direct: bool) -> str:
    """Where the service as a whole answers, with its split. RolloutError when it has no address."""
    status = service.get("status", {})
    inside = (status.get("address") or {}).get("url")
    # Standard mode's address inside is the stable version's Service: only the route is split.
    split_inside = mode_name(service) == "Knative"
    url = inside if direct and split_inside and inside else status.get("url")
    if not url:
        raise RolloutError(f"InferenceService {service['metadata']['name']}: has no address yet")
    return str(url)


def storage_uri(predictor: Predictor) -> object:
    """What says which weights a predictor serves, to compare with another's."""
    model = predictor.get("model") or {}
    containers = predictor.get("containers") or []
    envs = [
        entry.get("value")
        for container in containers
        for entry in container.get("env") or []
        if entry.get("name") == "STORAGE_URI"
    ]
    return model.get("storageUri"), model.get("args"), envs, [c.get("args") for c in containers]


def condition(service: InferenceService, kind: str) -> dict[str, Any]:
    """A condition of the status; empty when it is not there."""
    for found in service.get("status", {}).get("conditions", []):
        if found["type"] == kind:
            return dict(found)
    return {}


def complaints(service: InferenceService) -> str:
    """What the status says against being ready, for messages."""
    said = [
        f"{c['type']}: {c.get('reason', '')} {c.get('message', '')}".strip()
        for c in service.get("status", {}).get("conditions", [])
        if c.get("status") == "False"
    ]
    return "; ".join(said)[:500]


def shares(phase: Phase, percent: int) -> int:
    """The percentage that the newer of two versions must have in a phase."""
    return {Phase.CANARY: percent, Phase.PROMOTED: 100}.get(phase, 0)
