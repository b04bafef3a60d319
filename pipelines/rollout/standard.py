"""Standard mode: the candidate is an entry of `spec.canary`, with its own Deployment and Service.

KServe 0.20 or later with the Gateway API. Promotion makes the candidate's name the stable one, so
its pods go on running; the canary itself has a fixed size, since KServe does not scale it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
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
AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
IMPLEMENTATIONS = ("model", "containers")
_BESIDE_STABLE = (Phase.DARK, Phase.CANARY, Phase.UNDOING)
_WITH_CANDIDATE = (Phase.PROMOTED, Phase.REVERTING, Phase.KEEPING)


class StandardMode:
    """See the module."""

    name = "Standard"
    split_must_be_seen = True  # KServe 0.20.0

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
        bare = _bare(candidate)
        if bare == _bare(stable):
            raise RolloutError("the candidate's predictor is the stable one: nothing to roll out")
        prepared = {**overlay(stable, bare), "name": _own_name(candidate, stable)}
        if len(deployment_name(service, prepared)) > MAX_NAME:
            too_long = deployment_name(service, prepared)
            raise RolloutError(f"Deployment {too_long}: longer than {MAX_NAME} characters")
        return prepared

    def revert(self, service: InferenceService, state: State) -> State:
        """What comes back needs a name of its own beside what runs now."""
        running = copy.deepcopy(service["spec"]["predictor"])
        back = {**state.stable, "name": _own_name(state.stable, running)}
        return replace(
            state,
            stable=back,
            candidate=running,
            stable_version=deployment_name(service, back),
            candidate_version=deployment_name(service, running),
        )

    def apply(self, service: InferenceService, state: State) -> None:
        spec = service["spec"]
        running = state.candidate if state.phase in _WITH_CANDIDATE else state.stable
        spec["predictor"] = copy.deepcopy(running)
        if (beside := _beside(state)) is not None:
            percent = _percent_beside(state)
            canary = _without_scaler(service, canary_predictor(beside))
            spec["canary"] = [{"trafficPercent": percent, "predictor": canary}]
        else:
            spec.pop("canary", None)

    def progress(self, service: InferenceService, state: State) -> Progress:
        statuses = {s["name"]: s for s in service.get("status", {}).get("canaryStatuses") or []}
        if (beside := _beside(state)) is not None:
            name = beside["name"]
            found = statuses.get(name)
            percent = _percent_beside(state)
            if found is None:
                return Progress(False, f"canary {name} has no status yet")
            if not found["ready"] and state.phase is not Phase.UNDOING:
                return Progress(False, f"canary {name} is not ready. {complaints(service)}")
            if found["trafficPercent"] != percent:
                return Progress(False, f"traffic is {found['trafficPercent']} %, not {percent} %")
            return Progress(True, f"canary {name} has {percent} % of the traffic")
        if statuses:
            return Progress(False, f"canary {', '.join(statuses)} is not gone yet")
        if condition(service, "Ready").get("status") != "True":
            return Progress(False, f"not ready. {complaints(service)}")
        return Progress(True, "no canary is left")

    def candidate_version(self, service: InferenceService, state: State) -> str | None:
        return deployment_name(service, state.candidate)

    def newest_version(self, service: InferenceService) -> str | None:
        statuses = service.get("status", {}).get("canaryStatuses") or []
        return statuses[0]["name"] if statuses else None

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


def _beside(state: State) -> Predictor | None:
    """The version that runs as a canary in this phase."""
    if state.phase in _BESIDE_STABLE:
        return state.candidate
    return state.stable if state.phase is Phase.REVERTING else None


def _percent_beside(state: State) -> int:
    """Share of the version beside the predictor; one that comes back has what is left."""
    if state.phase is Phase.REVERTING:
        return 100 - state.percent
    return shares(state.phase, state.percent)


def _own_name(predictor: Predictor, other: Predictor) -> str:
    """Its name, or one from its content when it has none or the other has the same."""
    name = predictor.get("name")
    if name is None or name == other.get("name"):
        return f"v{predictor_digest(_bare(predictor))}"
    return str(name)


def _bare(predictor: Predictor) -> Predictor:
    return {key: value for key, value in predictor.items() if key != "name"}


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = _merged(base[key], value) if both else value
    return base


def canary_predictor(beside: Predictor) -> dict[str, Any]:
    """A predictor as a canary: a fixed size, at least one replica even without traffic."""
    predictor = {k: v for k, v in copy.deepcopy(beside).items() if k not in AUTOSCALING}
    predictor["minReplicas"] = max(1, predictor.get("minReplicas") or 1)
    return predictor


def _without_scaler(service: InferenceService, canary: dict[str, Any]) -> dict[str, Any]:
    """Where the service is scaled by KEDA, a canary says that it is not: KServe would make it a
    scaler without triggers, which the API refuses, and nothing would be reconciled any more."""
    if service["metadata"].get("annotations", {}).get(AUTOSCALER_CLASS) == "keda":
        canary["annotations"] = {**canary.get("annotations", {}), AUTOSCALER_CLASS: "none"}
    return canary
