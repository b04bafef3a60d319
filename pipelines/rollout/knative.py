"""Knative mode: one predictor spec, two revisions, `canaryTrafficPercent` between them.

Traps this follows from KServe's source: the percentage is ignored (all traffic moves!) until a
revision was rolled out; "latest" means the latest READY revision, so the field may only be removed
once the restored revision is ready; revisions have tag addresses only with tag routing on; and
status.observedGeneration counts another object's changes (kserve/kserve 6081), so whether the
controller has seen a change is judged by what it made of it, and by that several times in a row:
the status flaps to its final form and back while Knative rolls out.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

from pipelines.lib.errors import RolloutError
from pipelines.rollout.cluster import InferenceService
from pipelines.rollout.modes import Endpoints, Progress, complaints, condition, shares
from pipelines.rollout.state import Phase, Predictor, State, covers

TAG_ANNOTATION = "serving.kserve.io/enable-tag-routing"
PERCENT = "canaryTrafficPercent"
CANDIDATE_TAG, STABLE_TAG = "latest", "prev"
_WITH_CANDIDATE = (Phase.DARK, Phase.CANARY, Phase.UNDOING, Phase.PROMOTED, Phase.KEEPING)
_WITHOUT_PERCENT = (Phase.PROMOTED, Phase.ROLLED_BACK)


class KnativeMode:
    """See the module."""

    name = "Knative"
    split_must_be_seen = False

    def check_startable(self, service: InferenceService) -> str:
        status = _component(service)
        rolled_out = status.get("latestRolledoutRevision")
        if not rolled_out:
            raise RolloutError(
                "no revision has been rolled out yet; KServe would give a canary all traffic"
            )
        for key in ("latestReadyRevision", "latestCreatedRevision"):
            if status.get(key) != rolled_out:
                raise RolloutError(
                    f"{key} is {status.get(key)}, not the rolled-out {rolled_out}: another change "
                    f"is under way. {complaints(service)}"
                )
        if service["spec"]["predictor"].get(PERCENT) is not None:
            raise RolloutError(f"spec.predictor.{PERCENT} is already set: another canary is on")
        return str(rolled_out)

    def prepare(self, service: InferenceService, candidate: Predictor) -> Predictor:
        candidate = {key: value for key, value in candidate.items() if key != PERCENT}
        if covers(service["spec"]["predictor"], candidate):
            raise RolloutError("the candidate's predictor is the stable one: nothing to roll out")
        return candidate

    def revert(self, service: InferenceService, state: State) -> State:
        """What runs now is the revision with the most traffic, whoever put it there."""
        targets = _component(service).get("traffic", [])
        most: dict[str, Any] = max(targets, key=lambda t: t.get("percent") or 0, default={})
        return replace(
            state,
            candidate=copy.deepcopy(service["spec"]["predictor"]),
            candidate_version=most.get("revisionName", state.candidate_version),
        )

    def apply(self, service: InferenceService, state: State) -> None:
        predictor = state.candidate if state.phase in _WITH_CANDIDATE else state.stable
        predictor = copy.deepcopy(predictor)
        predictor.pop(PERCENT, None)
        if state.phase not in _WITHOUT_PERCENT:
            predictor[PERCENT] = shares(state.phase, state.percent)
        service["spec"]["predictor"] = predictor
        # Stays on: an annotation that changes is a new revision.
        service["metadata"].setdefault("annotations", {})[TAG_ANNOTATION] = "true"

    def progress(self, service: InferenceService, state: State) -> Progress:
        status = _component(service)
        ready, created = status.get("latestReadyRevision"), status.get("latestCreatedRevision")
        if state.phase is Phase.UNDOING:
            return _traffic_progress(status, {state.stable_version: 100})
        if ready is None or ready != created:
            return Progress(False, f"revision {created} is not ready. {complaints(service)}")
        if doubled := _doubled_tags(status):
            return Progress(False, f"{doubled} still leads to two revisions: Knative rolls out")
        if condition(service, "Ready").get("status") != "True":
            return Progress(False, f"not ready. {complaints(service)}")
        if state.phase is Phase.DARK:
            if ready == state.stable_version:
                return Progress(False, "the candidate's revision is not created yet")
            missing = {CANDIDATE_TAG, STABLE_TAG} - _tags(status).keys()
            if missing:
                return Progress(False, f"no address yet for {', '.join(sorted(missing))}")
            return _traffic_progress(status, {state.stable_version: 100})
        if state.phase is Phase.CANARY:
            return _traffic_progress(
                status, _split(state.stable_version, str(state.candidate_version), state.percent)
            )
        if state.phase is Phase.PROMOTED:
            return _traffic_progress(status, {ready: 100}, latest=True)
        if state.phase is Phase.KEEPING:
            if ready == state.restored_version:
                return Progress(False, "the promoted spec has no revision of its own yet")
            return _traffic_progress(status, {str(state.candidate_version): 100})
        if ready == state.candidate_version:
            return Progress(False, "the restored revision is not ready yet")
        if state.phase is Phase.REVERTING:
            return _traffic_progress(status, {str(state.candidate_version): 100})
        if state.phase is Phase.RESTORING:
            return _traffic_progress(status, {state.stable_version: 100})
        return _traffic_progress(status, {ready: 100}, latest=True)

    def candidate_version(self, service: InferenceService, state: State) -> str | None:
        status = _component(service)
        created = status.get("latestCreatedRevision")
        return None if created == state.stable_version else created

    def newest_version(self, service: InferenceService) -> str | None:
        return _component(service).get("latestCreatedRevision")

    def endpoints(self, service: InferenceService, state: State) -> Endpoints:
        tags = _tags(_component(service))
        for tag in (CANDIDATE_TAG, STABLE_TAG):
            if tag not in tags:
                raise RolloutError(f"status has no address for the tag {tag}")
        return Endpoints(stable=tags[STABLE_TAG], candidate=tags[CANDIDATE_TAG])


def _component(service: InferenceService) -> dict[str, Any]:
    found: dict[str, Any] = service.get("status", {}).get("components", {}).get("predictor") or {}
    return found


def _tags(status: dict[str, Any]) -> dict[str, str]:
    return {t["tag"]: t["url"] for t in status.get("traffic", []) if t.get("tag") and t.get("url")}


def _doubled_tags(status: dict[str, Any]) -> str:
    """Tags with several targets: Knative's own gradual rollout moves a tag's target too."""
    counts = Counter(t["tag"] for t in status.get("traffic", []) if t.get("tag"))
    return ", ".join(sorted(tag for tag, number in counts.items() if number > 1))


def _split(stable: str, candidate: str, percent: int) -> dict[str, int]:
    return {name: p for name, p in ((stable, 100 - percent), (candidate, percent)) if p}


def _traffic_progress(
    status: dict[str, Any], wanted: dict[str, int], *, latest: bool = False
) -> Progress:
    """Whether each revision has its share; `latest`: and follows the latest revision again."""
    found: dict[str, int] = {}
    for target in status.get("traffic", []):
        if target.get("percent"):
            name = target["revisionName"]
            found[name] = found.get(name, 0) + target["percent"]
    if found != wanted:
        return Progress(False, f"traffic is {found}, not yet {wanted}")
    if latest and any(t.get("tag") == STABLE_TAG for t in status.get("traffic", [])):
        return Progress(False, "the previous revision still has an address")
    return Progress(True, f"traffic is {found}")
