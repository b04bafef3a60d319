"""What KServe's webhook (0.20) refuses in an InferenceService, in its own words.

As knative_rules.py: for fake clusters, and for what the manifests are built into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
MODE = "serving.kserve.io/deploymentMode"
AUTOSCALER = "serving.kserve.io/autoscalerClass"
_NAME = "[a-z]([-a-z0-9]*[a-z0-9])?"
_IMPLEMENTATIONS = ("model", "sklearn", "huggingface", "triton", "pytorch", "containers")
_FIXED = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling")


def _replicas(predictor: Object) -> Iterator[str]:
    low, high = predictor.get("minReplicas", 1), predictor.get("maxReplicas", 0)
    if low < 0:
        yield "'MinReplicas' cannot be less than 0"
    if high != 0 and low > high:
        yield "'MinReplicas' cannot be greater than MaxReplicas"
    if predictor.get("containerConcurrency", 0) < 0:
        yield "parallelism cannot be less than 0"


def _canaries(service: Object) -> Iterator[str]:
    listed = service["spec"].get("canary") or []
    stable = service["spec"]["predictor"]
    if listed and service["metadata"].get("annotations", {}).get(MODE) != "Standard":
        yield "canary is only supported in Standard deployment mode"
    if listed and "model" not in stable:
        yield "canary requires a stable predictor with a model"
    names: set[str | None] = {stable.get("name")}
    for index, canary in enumerate(listed):
        predictor, percent = canary["predictor"], canary["trafficPercent"]
        name = predictor.get("name")
        if not name:
            yield f"canary[{index}] predictor.name is required"
        elif name in names:
            yield f'canary predictor.name "{name}" is duplicated'
        names.add(name)
        if not 0 <= percent <= 100:
            yield f'canary "{name}" trafficPercent must be between 0 and 100, got {percent}'
        for field in _FIXED:
            if field in predictor:
                yield f'canary "{name}" must not set {field} (canary uses fixed replicas)'
        if predictor.get("minReplicas", 0) > stable.get("minReplicas", 1):
            yield f'canary "{name}" minReplicas must not exceed stable predictor minReplicas'
    total = sum(canary["trafficPercent"] for canary in listed)
    if total > 100:
        yield f"sum of canary trafficPercent values ({total}) must be <= 100"


def _changes(service: Object, before: Object) -> Iterator[str]:
    had = before.get("status", {}).get("deploymentMode") or before["metadata"]["annotations"][MODE]
    has = service["metadata"].get("annotations", {}).get(MODE, had)
    if has != had:
        yield f"update rejected: deploymentMode cannot be changed from '{had}' to '{has}'"
    old, new = before["spec"]["predictor"], service["spec"]["predictor"]
    is_renamed = old.get("name") != new.get("name")
    uris = [each.get("model", {}).get("storageUri") for each in (old, new)]
    if is_renamed and uris[0] == uris[1]:
        yield "predictor.name change requires a model change (e.g. storageUri)"


def refusals(service: Object, before: Object | None = None) -> Iterator[str]:
    """What the webhook says against a new service, or one that was `before`."""
    if before is not None:
        yield from _changes(service, before)
    if not re.fullmatch(_NAME, service["metadata"]["name"]):
        yield f'the InferenceService "{service["metadata"]["name"]}" is invalid'
    predictor = service["spec"]["predictor"]
    if sum(name in predictor for name in _IMPLEMENTATIONS) != 1:
        yield "Exactly one of the implementations must be specified in predictor"
    yield from _replicas(predictor)
    yield from _canaries(service)


def reconcile_failures(service: Object) -> Iterator[str]:
    """What the API refuses of that which the controller (0.20) makes of a service."""
    annotations = service["metadata"].get("annotations", {})
    for canary in service["spec"].get("canary") or []:
        predictor = canary["predictor"]
        of_canary = {**annotations, **predictor.get("annotations", {})}
        if of_canary.get(AUTOSCALER) == "keda":
            name = f"{service['metadata']['name']}-{predictor['name']}-predictor"
            yield (
                f"fails to reconcile canary {predictor['name']}: ScaledObject.keda.sh "
                f'"{name}" is invalid: spec.triggers: Required value'
            )


def is_multi_model(predictor: Object) -> bool:
    """A model without any storage: KServe puts its agent in front of the server."""
    model = predictor.get("model")
    return model is not None and "storageUri" not in model and "storage" not in model
