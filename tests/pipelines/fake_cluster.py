"""A Kubernetes API over HTTP that knows InferenceServices, ConfigMaps and Leases, as KServe's does.

The controller (`fake_controller`) turns once for each read, so that whoever watches sees every
state in between, without any sleeping.
"""

from __future__ import annotations

import asyncio
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

from tests.pipelines.fake_controller import AUTOSCALING, NAMESPACE, FakeController, Object

Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class FakeCluster(FakeController):
    """One InferenceService in one namespace, behind its API."""

    config_maps: dict[str, Object] = field(default_factory=dict)
    leases: dict[str, Object] = field(default_factory=dict)
    fail_after: int | None = None  # the API is gone after so many writes
    lose_answer: bool = False  # the last write before that is done, and its answer lost
    drop_answer: int | None = None  # the answer to the write after so many is lost, once
    writes: list[str] = field(default_factory=list)  # "PUT configmaps", as they came
    before_write: Callable[[str], None] | None = None  # called with the same, first

    def __post_init__(self) -> None:
        self._versions = itertools.count(1)
        metadata = self.service["metadata"]
        metadata |= {"namespace": NAMESPACE, "uid": "uid-1", "generation": 1}
        metadata["resourceVersion"] = str(next(self._versions))
        super().__post_init__()

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
        if self.drop_answer == len(self.writes) - 1:
            return problem(504, "the write was done, and its answer is lost")
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
