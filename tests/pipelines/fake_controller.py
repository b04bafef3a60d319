"""What KServe's controller and Knative make of an InferenceService, and where traffic goes then.

The rules are KServe's own, from its controller's source: annotations reach the pods' template,
`canaryTrafficPercent` counts only after a roll-out, "latest" is the latest ready revision, a
canary in Standard mode has a Deployment of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NAMESPACE = "asr"
DOMAIN = "example.com"
AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")

Object = dict[str, Any]


@dataclass
class Workload:
    """A Knative revision or a Deployment."""

    name: str
    template: Object  # what its pods are made from
    age: int = 0  # turns of the controller
    starts: int = 1  # how often its pods were started anew

    @property
    def uri(self) -> str:
        """What it serves."""
        return str(self.template["predictor"]["model"]["storageUri"])


@dataclass
class FakeController:
    """One InferenceService in one namespace."""

    service: Object
    broken: set[str] = field(default_factory=set)  # storage URIs that never become ready
    broken_names: set[str] | None = None  # only of these workloads, when set
    ready_after: int = 2  # turns until a workload is ready
    # What a real node did (Knative Serving 1.21.1, KServe 0.20.0):
    gradual_turns: int = 0  # after a change of the traffic, in which Knative rolls out by itself
    weights_follow: bool = True  # Standard mode; KServe 0.20.0 leaves the route as it is
    inside_url: str | None = None  # in place of the address inside the cluster
    answered_by: Callable[[str], dict[str, int]] | None = None  # a host's real backends, if others
    workloads: dict[str, Workload] = field(default_factory=dict)
    routed: list[dict[str, int]] = field(default_factory=list)  # every split there was
    beside: list[int] = field(default_factory=list)  # every share of spec.canary there was
    unready: list[str] = field(default_factory=list)  # workloads that had traffic and no ready pod

    def __post_init__(self) -> None:
        self.service["status"] = {}
        self._targets: list[tuple[str, int, str | None]] = []
        self._old = self._targets
        self._left = 0
        for _ in range(self.ready_after + 3):
            self.turn()

    @property
    def mode(self) -> str:
        return str(self.service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"])

    def turn(self) -> None:
        """One reconciliation."""
        if self.mode == "Knative":
            self._turn_knative()
        else:
            self._turn_standard()
        for workload in self.workloads.values():
            workload.age += 1
        # KServe copies a child's counter (kserve/kserve 6081): it says nothing about this object.
        self.service["status"]["observedGeneration"] = 1
        self.service["status"]["url"] = f"http://{self.host}"
        inside = f"{self.service['metadata']['name']}-predictor.{NAMESPACE}.svc.cluster.local"
        self.service["status"]["address"] = {"url": self.inside_url or f"http://{inside}"}
        for name, percent in self._shares():
            if percent and self.routed and not self.is_ready(self.workloads[name]):
                self.unready.append(name)
        split = self.split()
        if split and self.routed[-1:] != [split]:
            self.routed.append(split)

    def is_ready(self, workload: Workload) -> bool:
        return workload.age >= self.ready_after and not self.is_broken(workload)

    def is_broken(self, workload: Workload) -> bool:
        return workload.uri in self.broken and (
            self.broken_names is None or workload.name in self.broken_names
        )

    def _template(self, predictor: Object) -> Object:
        return {
            "predictor": {k: v for k, v in predictor.items() if k != "canaryTrafficPercent"},
            "annotations": dict(self.service["metadata"]["annotations"]),
        }

    def _turn_knative(self) -> None:
        spec = self.service["spec"]["predictor"]
        status = self.service["status"].setdefault("components", {}).setdefault("predictor", {})
        template = copy.deepcopy(self._template(spec))
        if refused := knative_refusal(spec.get("annotations", {})):
            message = f"admission webhook denied the request: validation failed: {refused}"
            self._conditions(False, {"reason": "ReconcileFailed", "message": message})
            return
        latest = list(self.workloads.values())[-1] if self.workloads else None
        if latest is None or latest.template != template:
            name = f"{self.service['metadata']['name']}-predictor-{len(self.workloads) + 1:05d}"
            self.workloads[name] = Workload(name, template)
        created = list(self.workloads)[-1]
        ready = [n for n, w in self.workloads.items() if self.is_ready(w)]
        status["latestCreatedRevision"] = created
        self._ready_condition(self.workloads[created], is_ready=ready[-1:] == [created])
        if not ready:
            return
        status["latestReadyRevision"] = ready[-1]
        traffic = self._traffic(spec.get("canaryTrafficPercent"), status, ready[-1])
        if self._rolls_out(traffic):
            status["traffic"] = self._gradual(traffic)
            self._conditions(None)
            return
        status["traffic"] = traffic
        self._propagate(status, ready[-1], created)

    def _rolls_out(self, wanted: list[Object]) -> bool:
        """Whether Knative is still on its way to these targets."""
        targets = [(t["revisionName"], t["percent"], t.get("tag")) for t in wanted]
        if targets != self._targets:
            self._targets, self._old = targets, self._targets
            self._left = self.gradual_turns if self._old else 0
        self._left = max(0, self._left - 1) if self._left else 0
        return self._left > 0

    def _gradual(self, wanted: list[Object]) -> list[Object]:
        """The tag twice, mostly still to the old revision; every third look it is as it will be."""
        previous = {name for name, percent, _ in self._old if percent}
        newest = wanted[0]
        old = next(iter(previous - {newest["revisionName"]}), None)
        if old is None or not newest.get("tag") or self._left % 3 == 2:
            return wanted
        share = newest["percent"]
        lagging = {**newest, "revisionName": old, "percent": share - share * 11 // 100}
        return [{**newest, "percent": share * 11 // 100}, lagging, *wanted[1:]]

    def _traffic(self, percent: int | None, status: Object, ready: str) -> list[Object]:
        """createKnativeService's traffic targets, resolved as Knative does."""
        rolled_out = status.get("latestRolledoutRevision")
        tagged = self.service["metadata"]["annotations"].get("serving.kserve.io/enable-tag-routing")
        split = percent is not None and rolled_out
        latest: Object = {
            "latestRevision": True,
            "revisionName": ready,
            "percent": percent if split else 100,
        }
        if tagged == "true":
            latest |= {"tag": "latest", "url": f"http://{self._tag_host('latest')}"}
        if not split or percent == 100:
            return [latest]
        assert percent is not None
        previous = {
            "latestRevision": False,
            "revisionName": rolled_out,
            "percent": 100 - percent,
            "tag": "prev",
            "url": f"http://{self._tag_host('prev')}",
        }
        return [latest, previous]

    def _propagate(self, status: Object, ready: str, created: str) -> None:
        """PropagateStatus: which revision counts as rolled out."""
        sums: dict[str, int] = {}
        for target in status["traffic"]:
            sums[target["revisionName"]] = sums.get(target["revisionName"], 0) + target["percent"]
        latest = status["traffic"][0]
        if status.get("latestRolledoutRevision") != ready:
            if latest["percent"] == 100:
                status["previousRolledoutRevision"] = status.get("latestRolledoutRevision")
                status["latestRolledoutRevision"] = ready
        elif ready == created and latest["percent"] < 100 and sums[ready] == 100:
            previous = status.get("previousRolledoutRevision")
            status["latestRolledoutRevision"] = previous or ready

    def _turn_standard(self) -> None:
        stable = self.service["spec"]["predictor"]
        canaries = self.service["spec"].get("canary") or []
        wanted = {self._deployment(stable): stable}
        self.beside += [c["trafficPercent"] for c in canaries]
        wanted |= {self._deployment(c["predictor"]): {**stable, **c["predictor"]} for c in canaries}
        for name in set(self.workloads) - set(wanted):
            del self.workloads[name]
        for name, predictor in wanted.items():
            pods = {k: v for k, v in predictor.items() if k not in (*AUTOSCALING, "minReplicas")}
            template = copy.deepcopy(self._template(pods))
            if name not in self.workloads:
                self.workloads[name] = Workload(name, template)
            elif self.workloads[name].template != template:
                self.workloads[name].template = template
                self.workloads[name].starts += 1
        self.service["status"]["canaryStatuses"] = [
            {
                "name": c["predictor"]["name"],
                "ready": self.is_ready(self.workloads[self._deployment(c["predictor"])]),
                "trafficPercent": c["trafficPercent"],
            }
            for c in canaries
        ]
        workload = self.workloads[self._deployment(stable)]
        self._ready_condition(workload, is_ready=self.is_ready(workload))

    def _ready_condition(self, workload: Workload, *, is_ready: bool) -> None:
        """Pods that start are no failure yet."""
        if is_ready or self.is_broken(workload):
            self._conditions(is_ready)
        else:
            self._conditions(None, {"reason": "Deploying", "message": "not yet ready"})

    def _conditions(self, ready: bool | None, why: Object | None = None) -> None:
        """None: neither ready nor not, as during a rollout of Knative's own."""
        status = {True: "True", False: "False", None: "Unknown"}[ready]
        reason = {} if ready else {"reason": "RevisionFailed", "message": "containers crash"}
        if ready is None:
            reason = {"reason": "RolloutInProgress", "message": ""}
        reason = why or reason
        self.service["status"]["conditions"] = [
            {"type": "PredictorReady", "status": status, **reason},
            {"type": "Ready", "status": status, **reason},
        ]

    def _deployment(self, predictor: Object) -> str:
        name = self.service["metadata"]["name"]
        return "-".join(filter(None, (name, predictor.get("name"), "predictor")))

    # -- the network ---------------------------------------------------------------------------

    @property
    def host(self) -> str:
        return f"{self.service['metadata']['name']}.{NAMESPACE}.{DOMAIN}"

    def _tag_host(self, tag: str) -> str:
        return f"{tag}-{self.service['metadata']['name']}-predictor.{NAMESPACE}.{DOMAIN}"

    def split(self) -> dict[str, int]:
        """Percent of the traffic by storage URI; not-ready canaries get none."""
        shares: dict[str, int] = {}
        for name, percent in self._shares():
            uri = self.workloads[name].uri
            shares[uri] = shares.get(uri, 0) + percent
        return {uri: share for uri, share in shares.items() if share}

    def _shares(self) -> list[tuple[str, int]]:
        if self.mode == "Knative":
            status = self.service["status"].get("components", {}).get("predictor", {})
            return [(t["revisionName"], t["percent"]) for t in status.get("traffic", [])]
        stable = self._deployment(self.service["spec"]["predictor"])
        canaries = [
            (self._deployment(c["predictor"]), c["trafficPercent"])
            for c in self.service["spec"].get("canary") or []
        ]
        if not self.weights_follow:
            return [(stable, 100)]
        ready = [
            (n, p) for n, p in canaries if n in self.workloads and self.is_ready(self.workloads[n])
        ]
        return [(stable, 100 - sum(p for _, p in ready)), *ready]

    def backends(self, host: str) -> dict[str, int]:
        """Storage URIs that a host leads to, with their shares."""
        if self.answered_by is not None:
            return self.answered_by(host)
        if host == self.host:
            return self.split()
        if self.mode == "Knative":
            status = self.service["status"]["components"]["predictor"]
            found = [
                target
                for target in status["traffic"]
                if target.get("tag") and self._tag_host(target["tag"]) == host
            ]
            if len(found) == 1 and not self._left:
                return {self.workloads[found[0]["revisionName"]].uri: 100}
            if found:  # whatever the status says just now, the tag's target moves gradually
                newest, old = (self.workloads[t["revisionName"]].uri for t in (found[0], found[-1]))
                return {newest: 100} if newest == old else {newest: 11, old: 89}
        else:
            name = host.removesuffix(f".{NAMESPACE}.svc.cluster.local")
            if name in self.workloads and self.is_ready(self.workloads[name]):
                return {self.workloads[name].uri: 100}
        return {}


def knative_refusal(annotations: Object) -> str | None:
    """Of Knative's webhook, met when KServe makes the Knative service: not by whoever applies."""
    key = "autoscaling.knative.dev/activation-scale"
    if key in annotations and int(annotations[key]) < 2:
        return f"expected 2 <= {annotations[key]} <= 2147483647: {key}"
    return None


def inference_service(mode: str, uri: str = "s3://models/stable") -> Object:
    """An InferenceService as the manifests deploy it."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "qwen3-asr",
            "annotations": {"serving.kserve.io/deploymentMode": mode},
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": 4,
                "model": {
                    "name": "kserve-container",
                    "modelFormat": {"name": "qwen3-asr"},
                    "protocolVersion": "v2",
                    "runtime": "qwen3-asr",
                    "storageUri": uri,
                },
            }
        },
    }
