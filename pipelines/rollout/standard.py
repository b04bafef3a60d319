"""Standard mode: the candidate is an entry of `spec.canary`, with its own Deployment and Service.

KServe 0.20 or later with the Gateway API. Promotion makes the candidate's name the stable one, so
its pods go on running; the canary itself has a fixed size, since KServe does not scale it.
"""

from __future__ import annotations

import copy
from typing import Any

from pipelines.lib.errors import RolloutError
from pipelines.rollout.cluster import InferenceService
from pipelines.rollout.modes import (
    Endpoints,
    Progress,
    complaints,
    condition,
    shares,
)
from pipelines.rollout.state import Phase, Predictor, State, predictor_digest

MAX_NAME = 63  # characters of a Deployment's and Service's name
AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")
IMPLEMENTATIONS = ("model", "containers")
_WITH_CANARY = (Phase.DARK, Phase.CANARY, Phase.UNDOING)


class StandardMode:
    """See the module."""

    name = "Standard"

    def check_startable(self, service: InferenceService) -> str:
        if service["spec"].get("canary"):
            names = [str(c["predictor"].get("name")) for c in service["spec"]["canary"]]
            raise RolloutError(
                f"spec.canary already holds {', '.join(names)}: another canary is on"
            )
        if condition(service, "Ready").get("status") != "True":
            raise RolloutError(f"the stable version is not ready. {complaints(service)}")
        return deployment_name(service, service["spec"]["predictor"])

    def prepare(self, service: InferenceService, candidate: Predictor) -> Predictor:
        stable = service["spec"]["predictor"]
        bare = {key: value for key, value in candidate.items() if key != "name"}
        if bare == {key: value for key, value in stable.items() if key != "name"}:
            raise RolloutError("the candidate's predictor is the stable one: nothing to roll out")
        name = candidate.get("name")
        if name is None or name == stable.get("name"):
            name = f"v{predictor_digest(bare)}"
        prepared = {**overlay(stable, bare), "name": name}
        if len(deployment_name(service, prepared)) > MAX_NAME:
            too_long = deployment_name(service, prepared)
            raise RolloutError(f"Deployment {too_long}: longer than {MAX_NAME} characters")
        return prepared

    def apply(self, service: InferenceService, state: State) -> None:
        spec = service["spec"]
        if state.phase is Phase.PROMOTED:
            spec["predictor"] = copy.deepcopy(state.candidate)
        else:
            spec["predictor"] = copy.deepcopy(state.stable)
        if state.phase in _WITH_CANARY:
            percent = shares(state.phase, state.percent)
            spec["canary"] = [{"trafficPercent": percent, "predictor": canary_predictor(state)}]
        else:
            spec.pop("canary", None)

    def progress(self, service: InferenceService, state: State) -> Progress:
        statuses = {s["name"]: s for s in service.get("status", {}).get("canaryStatuses") or []}
        if state.phase in _WITH_CANARY:
            found = statuses.get(state.candidate["name"])
            percent = shares(state.phase, state.percent)
            if found is None:
                return Progress(False, "the candidate has no status yet")
            if not found["ready"] and state.phase is not Phase.UNDOING:
                return Progress(False, f"the candidate is not ready. {complaints(service)}")
            if found["trafficPercent"] != percent:
                return Progress(False, f"traffic is {found['trafficPercent']} %, not {percent} %")
            return Progress(True, f"the candidate has {percent} % of the traffic")
        if statuses:
            return Progress(False, f"canary {', '.join(statuses)} is not gone yet")
        if condition(service, "Ready").get("status") != "True":
            return Progress(False, f"not ready. {complaints(service)}")
        return Progress(True, "no canary is left")

    def candidate_version(self, service: InferenceService, state: State) -> str | None:
        return deployment_name(service, state.candidate)

    def endpoints(self, service: InferenceService, state: State) -> Endpoints:
        namespace = service["metadata"]["namespace"]
        stable, candidate = (
            f"http://{deployment_name(service, predictor)}.{namespace}.svc.cluster.local"
            for predictor in (state.stable, state.candidate)
        )
        return Endpoints(stable=stable, candidate=candidate)


def deployment_name(service: InferenceService, predictor: Predictor) -> str:
    """Name of the Deployment and Service that KServe makes for a predictor."""
    name = predictor.get("name")
    base = service["metadata"]["name"]
    return f"{base}-{name}-predictor" if name else f"{base}-predictor"


def overlay(stable: Predictor, candidate: Predictor) -> Predictor:
    """The candidate with what it leaves out taken from the stable predictor, as KServe does it.

    Written out, because KServe's webhook fills defaults into the stable predictor only.
    """
    base = copy.deepcopy(stable)
    for kind in IMPLEMENTATIONS:
        if kind in base and any(other in candidate for other in IMPLEMENTATIONS if other != kind):
            del base[kind]  # a model instead of containers, or the other way round
    return _merged(base, copy.deepcopy(candidate))


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = _merged(base[key], value) if both else value
    return base


def canary_predictor(state: State) -> dict[str, Any]:
    """The candidate as a canary: a fixed size, at least one replica even without traffic."""
    predictor = {k: v for k, v in copy.deepcopy(state.candidate).items() if k not in AUTOSCALING}
    predictor["minReplicas"] = max(1, predictor.get("minReplicas") or 1)
    return predictor
