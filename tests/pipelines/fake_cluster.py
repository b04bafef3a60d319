"""A Kubernetes API over HTTP that knows InferenceServices and ConfigMaps, and KServe's rules.

The rules are KServe's own, from its controller's source: annotations reach the pods' template,
`canaryTrafficPercent` counts only after a roll-out, "latest" is the latest ready revision, a
canary in Standard mode has a Deployment of its own. The controller turns once for each read, so
that whoever watches sees every state in between, without any sleeping.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

NAMESPACE = "asr"
DOMAIN = "example.com"
AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")

Object = dict[str, Any]
Handler = Callable[[Request], Awaitable[Response]]


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
class FakeCluster:
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
    config_maps: dict[str, Object] = field(default_factory=dict)
    leases: dict[str, Object] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fail_after: int | None = None  # the API is gone after so many writes
    lose_answer: bool = False  # the last write before that is done, and its answer lost
    writes: list[str] = field(default_factory=list)  # "PUT configmaps", as they came
    before_write: Callable[[str], None] | None = None  # called with the same, first
    routed: list[dict[str, int]] = field(default_factory=list)  # every split there was
    unready: list[str] = field(default_factory=list)  # workloads that had traffic and no ready pod

    def __post_init__(self) -> None:
        self._versions = itertools.count(1)
        metadata = self.service["metadata"]
        metadata |= {"namespace": NAMESPACE, "uid": "uid-1", "generation": 1}
        metadata["resourceVersion"] = str(next(self._versions))
        self.service["status"] = {}
        self._targets: list[tuple[str, int, str | None]] = []
        self._old = self._targets
        self._left = 0
        for _ in range(self.ready_after + 3):
            self.turn()

    # -- the API -------------------------------------------------------------------------------

    def app(self) -> Starlette:
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
        base = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices/{{name}}"
        maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        handlers: list[tuple[str, str, Handler]] = [
            (base, "GET", self.get_service),
            (base, "PUT", self.put_service),
            (maps, "POST", self.create_map),
            (maps + "/{name}", "GET", self.get_map),
            (maps + "/{name}", "PUT", self.put_map),
            (leases, "POST", self.create_lease),
            (leases + "/{name}", "GET", self.get_lease),
            (leases + "/{name}", "PUT", self.put_lease),
        ]
        return Starlette(
            routes=[
                Route(path, partial(self.interrupt, handler), methods=[method])
                for path, method, handler in handlers
            ]
        )

    async def interrupt(self, handler: Handler, request: Request) -> Response:
        """The API server goes away for good, before or after a write.

        Around each handler, since Starlette's middleware doubles what a request costs.
        """
        if request.method == "GET":
            gone = self.fail_after is not None and self.fail_after < 0
            return problem(500, "the API server is gone") if gone else await handler(request)
        what = f"{request.method} {request.url.path.split('/namespaces/')[1].split('/')[1]}"
        if self.before_write is not None:
            await asyncio.to_thread(self.before_write, what)
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                if self.fail_after == -1 and self.lose_answer:
                    await handler(request)
                return problem(500, "the API server is gone")
        answer: Response = await handler(request)
        self.writes.append(what)
        return answer

    async def get_service(self, request: Request) -> JSONResponse:
        if request.path_params["name"] != self.service["metadata"]["name"]:
            return problem(404, "not found")
        self.turn()
        return JSONResponse(self.service)

    async def put_service(self, request: Request) -> JSONResponse:
        body = json.loads(await request.body())
        if refusal := self._refusal(body, self.service):
            return refusal
        if denied := admission(body):
            return problem(400, f"admission webhook denied the request: {denied}")
        changed = body["spec"] != self.service["spec"]
        metadata = {**self.service["metadata"], **body["metadata"]}
        metadata["generation"] = self.service["metadata"]["generation"] + changed
        metadata["resourceVersion"] = str(next(self._versions))
        self.service |= {"metadata": metadata, "spec": body["spec"]}
        return JSONResponse(self.service)

    async def get_map(self, request: Request) -> JSONResponse:
        return self._get(self.config_maps, request)

    async def create_map(self, request: Request) -> JSONResponse:
        return self._create(self.config_maps, json.loads(await request.body()))

    async def put_map(self, request: Request) -> JSONResponse:
        return self._put(self.config_maps, request, json.loads(await request.body()))

    async def get_lease(self, request: Request) -> JSONResponse:
        return self._get(self.leases, request)

    async def create_lease(self, request: Request) -> JSONResponse:
        body = json.loads(await request.body())
        return lease_refusal(body) or self._create(self.leases, body)

    async def put_lease(self, request: Request) -> JSONResponse:
        body = json.loads(await request.body())
        return lease_refusal(body) or self._put(self.leases, request, body)

    def expire_leases(self) -> None:
        """The time of every lease is over: whoever held one was killed long ago."""
        for lease in self.leases.values():
            lease["spec"]["renewTime"] = "2020-01-01T00:00:00.000000Z"

    @staticmethod
    def _get(kept: dict[str, Object], request: Request) -> JSONResponse:
        found = kept.get(request.path_params["name"])
        return JSONResponse(found) if found else problem(404, "not found")

    def _create(self, kept: dict[str, Object], body: Object) -> JSONResponse:
        name = body["metadata"]["name"]
        if name in kept or body["metadata"].get("resourceVersion"):
            return problem(409, "already exists")
        return self._store(kept, name, body, 201)

    def _put(self, kept: dict[str, Object], request: Request, body: Object) -> JSONResponse:
        name = request.path_params["name"]
        return self._refusal(body, kept[name]) or self._store(kept, name, body, 200)

    def _store(self, kept: dict[str, Object], name: str, body: Object, status: int) -> JSONResponse:
        body["metadata"]["resourceVersion"] = str(next(self._versions))
        kept[name] = body
        return JSONResponse(body, status)

    @staticmethod
    def _refusal(body: Object, current: Object) -> JSONResponse | None:
        if body["metadata"].get("resourceVersion") != current["metadata"]["resourceVersion"]:
            return problem(409, "the object has been modified")
        return None

    def edit(self, **predictor: Any) -> None:
        """A change by somebody else."""
        self.service["spec"]["predictor"] |= predictor
        self.service["metadata"]["generation"] += 1
        self.service["metadata"]["resourceVersion"] = str(next(self._versions))

    # -- the controller ------------------------------------------------------------------------

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


def admission(body: Object) -> str | None:
    """KServe's webhook."""
    canaries = body["spec"].get("canary") or []
    if not canaries:
        return None
    if body["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative":
        return "canary needs Standard mode"
    names = [c["predictor"].get("name") for c in canaries]
    if None in names or len({*names, body["spec"]["predictor"].get("name")}) != len(names) + 1:
        return "canary names must be unique"
    if sum(c["trafficPercent"] for c in canaries) > 100:
        return "trafficPercent adds up to more than 100"
    if any(key in c["predictor"] for c in canaries for key in AUTOSCALING):
        return "a canary has no autoscaling"
    return None


def knative_refusal(annotations: Object) -> str | None:
    """Of Knative's webhook, met when KServe makes the Knative service: not by whoever applies."""
    key = "autoscaling.knative.dev/activation-scale"
    if key in annotations and int(annotations[key]) < 2:
        return f"expected 2 <= {annotations[key]} <= 2147483647: {key}"
    return None


def lease_refusal(body: Object) -> JSONResponse | None:
    """What the API server's validation says of a Lease, and its decoding of MicroTime."""
    spec = body["spec"]
    if (spec.get("leaseDurationSeconds") or 0) <= 0:
        return problem(422, "spec.leaseDurationSeconds: must be greater than 0")
    if (spec.get("leaseTransitions") or 0) < 0:
        return problem(422, "spec.leaseTransitions: must be greater than or equal to 0")
    for key in ("renewTime", "acquireTime"):
        if not re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}\.\d{6}Z", spec[key]):
            return problem(400, f"{key}: cannot parse {spec[key]!r}")
    return None


def problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"kind": "Status", "code": status, "message": message}, status)


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
