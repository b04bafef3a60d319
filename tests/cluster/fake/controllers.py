"""What KServe and Knative make of one InferenceService, as a real cluster was seen to do it.

Learned from Knative 1.21.1 and KServe 0.20.0 on a real node: a refusal at reconcile shows in the
conditions only; the status flaps to the end of a move before the traffic is there; with
rollout-duration a tag's address answers from both revisions; in Standard mode KServe 0.20.0 reports
a canary's share and weights no route; a model without storage gets an agent.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.fake.workloads import FLAGS, Workload, address_of, template_of
from tests.manifests import knative_rules, kserve_rules
from tests.manifests.objects import MODE, Predictor, knative_service, merge, of_kind, predictors

Object = dict[str, Any]
DOMAIN = "example.com"
TAGGED = "serving.kserve.io/enable-tag-routing"
IDLE_TURNS = 10  # until pods that nobody needs go


@dataclass
class FakeService:
    """One InferenceService, its workloads, its status and who answers for it."""

    service: Object
    siblings: list[Object]  # the other objects of its namespace: runtimes
    kserve: str = "0.20.0"
    ready_after: int = 2  # turns until a new workload is ready
    moves_in: int = 4  # turns until traffic is where the status says
    workloads: dict[str, Workload] = field(default_factory=dict)
    served: list[tuple[str, int]] = field(default_factory=list)  # who really answers, by percent
    tags: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    idle: int = 0
    sessions: int = 0  # live ones, which are requests in flight to the autoscaler
    is_growing: bool = False  # their number; meanwhile the autoscaler's window keeps all pods
    has_secret: Callable[[str], bool] = lambda _: True  # whether its namespace has it

    def __post_init__(self) -> None:
        self.siblings = of_kind(self.siblings, "ServingRuntime")
        self._moving: int = 0
        self._wanted: list[Object] = []
        self.service["status"] = {"deploymentMode": self.mode}

    @property
    def mode(self) -> str:
        return str(self.service["metadata"]["annotations"][MODE])

    @property
    def name(self) -> str:
        return str(self.service["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.service["metadata"]["namespace"])

    def change(self, service: Object) -> None:
        """A new spec, as the API stored it."""
        status = self.service["status"]
        generation = self.service["metadata"]["generation"] + 1
        self.service = {**copy.deepcopy(service), "status": status}
        self.service["metadata"]["generation"] = generation

    def turn(self) -> None:
        """One reconciliation of everything."""
        self.idle += 1
        for workload in self.workloads.values():
            workload.age += 1
        [stable, *canaries] = predictors([self.service, *self.siblings])
        if self.mode == "Knative":
            said = list(knative_rules.refusals(knative_service(stable), FLAGS, 3600))
            if said:
                self._conditions("False", "ReconcileFailed", f"validation failed: {said[0]}")
                return
            self._turn_knative(stable)
        else:
            self._turn_standard(stable, canaries)
        self._scale()

    # -- Knative -------------------------------------------------------------------------------

    def _turn_knative(self, predictor: Predictor) -> None:
        template = knative_service(predictor)["spec"]["template"]
        made = list(self.workloads.values())
        if not made or knative_service(made[-1].predictor)["spec"]["template"] != template:
            name = f"{self.name}-predictor-{len(made) + 1:05d}"
            self.workloads[name] = Workload(name, copy.deepcopy(predictor))
            for _ in range(self.workloads[name].first):
                self.workloads[name].start_pod()
        created = list(self.workloads)[-1]
        ready = [n for n, w in self.workloads.items() if self._is_ready(w)]
        status = self.service["status"].setdefault("components", {}).setdefault("predictor", {})
        status["latestCreatedRevision"] = created
        if not ready:
            self._conditions("Unknown", "RevisionMissing", "not yet ready")
            return
        status["latestReadyRevision"] = ready[-1]
        targets = self._targets(status, ready[-1])
        if targets != self._wanted:
            self._wanted, self._moving = targets, self.moves_in
        self._move(status, targets, ready[-1] == created)
        self._roll_out(status, ready[-1], created)
        self.service["status"]["url"] = f"http://{self.host}"
        address = f"http://{self.name}-predictor.{self.namespace}.svc.cluster.local"
        self.service["status"]["address"] = {"url": address}

    def _targets(self, status: Object, ready: str) -> list[Object]:
        """createKnativeService's traffic."""
        percent = self.service["spec"]["predictor"].get("canaryTrafficPercent")
        rolled_out = status.get("latestRolledoutRevision")
        is_split = percent is not None and rolled_out
        latest = {"latestRevision": True, "revisionName": ready, "percent": 100}
        if self.service["metadata"]["annotations"].get(TAGGED) == "true":
            latest |= {"tag": "latest", "url": f"http://{self.tag_host('latest')}"}
        if not is_split:
            return [latest]
        latest["percent"] = percent
        if percent == 100:
            return [latest]
        previous = {"revisionName": rolled_out, "percent": 100 - percent, "tag": "prev"}
        previous |= {"latestRevision": False, "url": f"http://{self.tag_host('prev')}"}
        return [latest, previous]

    def _move(self, status: Object, targets: list[Object], is_newest: bool) -> None:
        """Shows the end for a moment, takes it back while traffic moves, then is there."""
        self._moving = max(0, self._moving - 1)
        gradual = knative_rules.ROLLOUT_DURATION in self.service["metadata"]["annotations"]
        for target in targets:
            if (tag := target.get("tag")) is not None:
                old = self.tags.get(tag, [(target["revisionName"], 100)])[-1][0]
                both = [(target["revisionName"], 11), (old, 89)]
                slow = gradual and self._moving and old != target["revisionName"]
                self.tags[tag] = both if slow else [(target["revisionName"], 100)]
        if self._moving:
            status.setdefault("traffic", targets)
            if self._moving == self.moves_in - 1:
                status["traffic"] = targets  # the flap
            elif self.served:
                status["traffic"] = self._old_traffic(targets)
            self._conditions("Unknown", "RolloutInProgress", "traffic is on its way")
            return
        status["traffic"] = targets
        self.served = [(t["revisionName"], t["percent"]) for t in targets]
        self._conditions("True" if is_newest else "Unknown", "", "")

    def _old_traffic(self, targets: list[Object]) -> list[Object]:
        """The shares that are really served, with the tags' addresses of the new targets."""
        tags = [{**target, "percent": 0} for target in targets]
        return tags + [{"revisionName": name, "percent": share} for name, share in self.served]

    def _roll_out(self, status: Object, ready: str, created: str) -> None:
        """PropagateStatus: which revision counts as rolled out."""
        if self._moving:
            return
        sums: dict[str, int] = {}
        for target in status["traffic"]:
            name = target["revisionName"]
            sums[name] = sums.get(name, 0) + target["percent"]
        latest = status["traffic"][0]
        if status.get("latestRolledoutRevision") != ready:
            if latest["percent"] == 100:
                status["previousRolledoutRevision"] = status.get("latestRolledoutRevision")
                status["latestRolledoutRevision"] = ready
        elif ready == created and latest["percent"] < 100 and sums[ready] == 100:
            previous = status.get("previousRolledoutRevision")
            status["latestRolledoutRevision"] = previous or ready

    # -- Standard ------------------------------------------------------------------------------

    def _turn_standard(self, stable: Predictor, canaries: list[Predictor]) -> None:
        for said in kserve_rules.reconcile_failures(self.service):
            self._conditions("False", "ReconcileFailed", said)
            return
        named = {f"{self.name}-predictor": stable}
        listed = self.service["spec"].get("canary") or []
        for canary, spec in zip(canaries, listed, strict=True):
            named[f"{self.name}-{spec['predictor']['name']}-predictor"] = canary
        for gone in set(self.workloads) - set(named):
            del self.workloads[gone]
        for name, predictor in named.items():
            workload = self.workloads.get(name)
            if workload is None or workload.template != template_of(predictor):
                self.workloads[name] = Workload(name, copy.deepcopy(predictor))
                self.workloads[name].start_pod()
        ready = {n: self._is_ready(w) for n, w in self.workloads.items()}
        names = list(named)
        follows = tuple(map(int, self.kserve.split("."))) >= (0, 21)
        shares = [
            (name, spec["trafficPercent"] if follows and ready[name] else 0)
            for name, spec in zip(names[1:], listed, strict=True)
        ]
        self.served = [(names[0], 100 - sum(share for _, share in shares)), *shares]
        self.service["status"]["canaryStatuses"] = [
            {
                "name": spec["predictor"]["name"],
                "ready": ready[name],
                "trafficPercent": spec["trafficPercent"],
            }
            for name, spec in zip(names[1:], listed, strict=True)
        ]
        self._conditions("True" if ready[names[0]] else "False", "Deploying", "not yet")
        self.service["status"]["url"] = f"https://{self.host}"

    # -- pods, status, network -----------------------------------------------------------------

    def _is_ready(self, workload: Workload) -> bool:
        secrets = [v.get("secret") for v in workload.predictor.pod.get("volumes", [])]
        mounted = all(self.has_secret(each["secretName"]) for each in secrets if each)
        return workload.age >= self.ready_after and workload.is_there and mounted

    def _scale(self) -> None:
        """Revisions without traffic or, allowed to zero, without requests lose their pods; one that
        started with more than it needs gives up the oldest."""
        busy = {name for name, share in self.served if share}
        busy |= {name for listed in self.tags.values() for name, _ in listed}
        for name, workload in self.workloads.items():
            if workload.age < self.ready_after:
                continue
            floor = workload.floor if name in busy else 0
            if self.mode == "Knative" and floor == 0 and self.idle > IDLE_TURNS:
                workload.pods.clear()
            wanted = max(floor, self._for_sessions(workload)) if name in busy else floor
            is_idle = self.mode == "Knative" and self.idle > IDLE_TURNS and not self.is_growing
            if is_idle and len(workload.pods) > wanted > 0:
                del workload.pods[0]
            while len(workload.pods) < wanted:
                workload.start_pod()

    def count(self, change: int) -> None:
        """A live session more, or one less."""
        self.sessions += change
        self.is_growing = change > 0

    def _for_sessions(self, workload: Workload) -> int:
        """Pods that the autoscaler wants for the live sessions there are."""
        spec = workload.predictor.spec
        wanted = math.ceil(self.sessions / spec.get("scaleTarget", 100))
        return min(wanted, int(spec.get("maxReplicas", wanted)))

    def _conditions(self, status: str, reason: str, message: str) -> None:
        why = {} if status == "True" else {"reason": reason, "message": message}
        self.service["status"]["conditions"] = [
            {"type": kind, "status": status, **why} for kind in ("PredictorReady", "Ready")
        ]

    @property
    def host(self) -> str:
        joint = "." if self.mode == "Knative" else "-"
        return f"{self.name}{joint}{self.namespace}.{DOMAIN}"

    def route(self) -> Object:
        """The HTTPRoute of Standard mode."""
        rule = {"timeouts": {"request": f"{self.service['spec']['predictor']['timeout']}s"}}
        accepted = {"type": "Accepted", "status": "True"}
        return {
            "spec": {"hostnames": [self.host], "rules": [rule]},
            "status": {"parents": [{"conditions": [accepted]}]},
        }

    def tag_host(self, tag: str) -> str:
        return f"{tag}-{self.name}-predictor.{self.namespace}.{DOMAIN}"

    def backends(self, host: str) -> list[tuple[str, int]]:
        """(workload, percent) of those that answer for a host name; none for a foreign one."""
        if host == self.host:
            return self.served
        for tag, targets in self.tags.items():
            if host == self.tag_host(tag):
                return targets
        name = host.removesuffix(f".{self.namespace}.svc.cluster.local")
        return [(name, 100)] if name in self.workloads else []

    def serving(self, workload: str) -> Workload:
        """The workload that answers; one at zero starts a pod first."""
        self.idle = 0
        if not self.workloads[workload].pods:
            self.workloads[workload].start_pod()
        return self.workloads[workload]

    def pods(self) -> list[Object]:
        """Its pods as the API shows them, with what KServe and Knative put beside the server."""
        return [
            self._pod(name, workload)
            for workload in self.workloads.values()
            for name in workload.pods
        ]

    def _pod(self, name: str, workload: Workload) -> Object:
        spec = copy.deepcopy(workload.predictor.pod)
        if kserve_rules.is_multi_model(workload.predictor.spec):
            spec["containers"].append({"name": "agent", "image": "kserve/agent"})
        if self.mode == "Knative":
            spec["containers"].append({"name": "queue-proxy", "image": "knative/queue"})
            spec["terminationGracePeriodSeconds"] = workload.predictor.spec["timeout"]
        labels = {**workload.predictor.labels, "serving.knative.dev/revision": workload.name}
        statuses = [{"name": c["name"], "ready": True, "image": c["image"], "imageID": "",
                     "restartCount": 0} for c in spec["containers"]]  # fmt: skip
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "spec": merge({}, spec),
            "status": {
                "phase": "Running",
                "podIP": address_of(name),
                "containerStatuses": statuses,
            },
        }
