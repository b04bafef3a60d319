"""A Kubernetes API over HTTP, for the cluster tests' logic without a cluster.

Server-side apply, merge patches, lists, watches, dry runs and deletion, as the tests use them; the
controllers turn once for each thing that is read, so that watchers and callers see every state in
between and nothing waits. admission.py says what is refused, ingress.py answers for the services.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.cluster.fake import admission, network
from tests.cluster.fake.controllers import FakeService
from tests.cluster.fake.ingress import FakeIngress

Object = dict[str, Any]
WATCH_S = 120.0  # a watch ends by the client's timeout, and by this
PACE_S = 0.005  # between two turns of a watch, for other requests to be answered
_KINDS = {"networkpolicies": "NetworkPolicy"}


def problem(status: int, message: str) -> JSONResponse:
    body = {"kind": "Status", "apiVersion": "v1", "code": status, "message": message}
    return JSONResponse(body, status)


def _refused(said: str | None) -> JSONResponse | None:
    return problem(400, said) if said else None


def merged(base: Any, patch: Any) -> Any:
    """JSON merge patch."""
    if not isinstance(patch, dict):
        return patch
    made = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), value)
    return made


class FakeKubernetes:
    """All objects of one cluster. `kinds` are the custom kinds that it does not know."""

    def __init__(self, kserve: str = "0.20.0", unknown: frozenset[str] = frozenset()) -> None:
        self.kserve, self.unknown = kserve, unknown
        self.objects: dict[tuple[str, str, str], Object] = {}  # kind, namespace, name
        self.services: dict[tuple[str, str], FakeService] = {}
        self._version = 0

    # -- routes --------------------------------------------------------------------------------

    def api(self) -> Starlette:
        everything = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        named = "/{prefix}/{version:path}/namespaces/{namespace}/{plural}/{name}"
        return Starlette(
            routes=[
                Route("/version", self.get_version),
                Route("/apis", self.get_groups),
                Route("/api/v1/namespaces", self.namespaces, methods=everything),
                Route("/api/v1/namespaces/{name}", self.namespace, methods=everything),
                Route("/{prefix}/{version:path}/prometheuses", self.prometheuses),
                Route(named, self.one, methods=everything),
                Route(named.rsplit("/", 1)[0], self.many, methods=everything),
                Route("/{prefix}/{version:path}/{plural}/{name}", self.one, methods=everything),
            ]
        )

    def ingress(self) -> Starlette:
        return FakeIngress(lambda: self.services.values(), self._keys).app()

    async def get_version(self, _: Request) -> Response:
        return JSONResponse({"major": "1", "minor": "34", "gitVersion": "v1.34.4"})

    async def get_groups(self, _: Request) -> Response:
        names = ("serving.kserve.io", "serving.knative.dev", "gateway.networking.k8s.io")
        version = {"groupVersion": "x/v1", "version": "v1"}
        groups = [{"name": n, "versions": [version], "preferredVersion": version} for n in names]
        return JSONResponse({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})

    async def prometheuses(self, _: Request) -> Response:
        """As kube-prometheus-stack makes it."""
        spec = {"podMonitorSelector": {"matchLabels": {"release": "prometheus"}}}
        return self._list([{"metadata": {"name": "prometheus"}, "spec": spec}])

    async def namespaces(self, request: Request) -> Response:
        wanted = request.query_params.get("fieldSelector", "").removeprefix("metadata.name=")
        if "watch" in request.query_params:
            gone = {"metadata": {"name": wanted}, "kind": "Namespace", "apiVersion": "v1"}
            return self._stream([("DELETED", gone)])
        listed = [each for key, each in self.objects.items() if key[0] == "Namespace"]
        listed = [each for each in listed if each["metadata"]["name"] == wanted]
        return self._list(listed)

    async def namespace(self, request: Request) -> Response:
        name = request.path_params["name"]
        if request.method == "PATCH":
            return await self._apply(request, "Namespace", "", name)
        self.objects = {k: v for k, v in self.objects.items() if name not in (k[1], k[2])}
        self.services = {k: v for k, v in self.services.items() if k[0] != name}
        return JSONResponse({"kind": "Status", "status": "Success"})

    async def one(self, request: Request) -> Response:
        path = request.path_params
        kind, namespace, name = self._kind(path["plural"]), path.get("namespace", ""), path["name"]
        if kind in self.unknown:
            return problem(404, "the server could not find the requested resource")
        if request.method == "PATCH":
            return await self._apply(request, kind, namespace, name)
        if request.method == "PUT":
            return await self._replace(request, kind, namespace, name)
        if kind == "Pod" and request.method == "DELETE":
            return self._delete_pod(namespace, name)
        service = self.services.get((namespace, name)) if kind == "InferenceService" else None
        if request.method == "DELETE":
            self.objects.pop((kind, namespace, name), None)
            self.services.pop((namespace, name), None)
            return JSONResponse({"kind": "Status", "status": "Success"})
        if service is not None:
            service.turn()
            return JSONResponse(service.service)
        if kind == "HTTPRoute" and (namespace, name) in self.services:
            return JSONResponse(self.services[namespace, name].route())
        found = self.objects.get((kind, namespace, name))
        return JSONResponse(found) if found else problem(404, f"{kind} {name} not found")

    async def many(self, request: Request) -> Response:
        path = request.path_params
        kind, namespace = self._kind(path["plural"]), path["namespace"]
        if kind in self.unknown:
            return problem(404, "the server could not find the requested resource")
        if request.method == "POST":
            return await self._create(request, namespace)
        if "watch" in request.query_params:
            name = request.query_params.get("fieldSelector", "").removeprefix("metadata.name=")
            timeout_s = float(request.query_params.get("timeoutSeconds", WATCH_S))
            return StreamingResponse(self._watch(kind, namespace, name, min(timeout_s, WATCH_S)))
        return self._list(self._listed(kind, namespace))

    def run_in(self, namespace: str, pod: str, command: list[str]) -> str:
        """What /proc/1/status of a pod's server says, by its security context."""
        [found] = [p for p in self._listed("Pod", namespace) if p["metadata"]["name"] == pod]
        if command[0] == "python":  # asks an address of its own
            return "qwen3_asr_load 0.0\n"
        context = found["spec"]["containers"][0]["securityContext"]
        assert command == ["cat", "/proc/1/status"]
        uid, dropped = context["runAsUser"], context["capabilities"]["drop"] == ["ALL"]
        return (
            f"Name:\tpython\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"
            f"CapEff:\t{0 if dropped else 1:016x}\nCapBnd:\t{0 if dropped else 1:016x}\n"
            f"NoNewPrivs:\t{int(not context['allowPrivilegeEscalation'])}\n"
            f"Seccomp:\t{2 if context.get('seccompProfile') else 0}\n"
        )

    # -- the API -------------------------------------------------------------------------------

    def _kind(self, plural: str) -> str:
        known = {key[0].lower() + "s": key[0] for key in self.objects}
        plain = {"inferenceservices": "InferenceService", "pods": "Pod", "jobs": "Job",
                 "services": "Service", "httproutes": "HTTPRoute", "podmonitors": "PodMonitor",
                 "prometheusrules": "PrometheusRule", "configmaps": "ConfigMap",
                 "leases": "Lease", "secrets": "Secret"}  # fmt: skip
        return {**plain, **known, **_KINDS}.get(plural, plural)

    def _listed(self, kind: str, namespace: str) -> list[Object]:
        services = [s for (where, _), s in self.services.items() if where == namespace]
        if kind == "InferenceService":
            return [each.service for each in services]
        if kind == "Pod":
            for each in services:
                each.turn()
            return [pod for each in services for pod in each.pods()]
        return [v for k, v in self.objects.items() if k[:2] == (kind, namespace)]

    def _list(self, items: list[Object]) -> Response:
        metadata = {"resourceVersion": str(self._version)}
        return JSONResponse(
            {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}
        )

    async def _apply(self, request: Request, kind: str, namespace: str, name: str) -> Response:
        body = json.loads(await request.body())
        kind = body.get("kind", kind)
        if kind in self.unknown:
            return problem(404, "the server could not find the requested resource")
        key = (kind, namespace, name)
        current = self.services.get((namespace, name))
        if "merge-patch" in request.headers["content-type"]:
            assert current is not None
            body = merged(current.service, body)
        before = current.service if current and kind == "InferenceService" else None
        if denied := _refused(admission.denied(body, before)):
            return denied
        if "dryRun" in request.query_params:
            return JSONResponse(body)
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        if kind == "InferenceService":
            self._serve(body, current)
        else:
            self.objects[key] = body | ({"status": self._ran(body)} if kind == "Job" else {})
        return JSONResponse(body)

    async def _create(self, request: Request, namespace: str) -> Response:
        body = json.loads(await request.body())
        said = admission.denied(body) or admission.no_account(body, namespace, self.objects)
        denied = _refused(said)
        if denied or "dryRun" in request.query_params:
            return denied or JSONResponse(body, 201)
        key = (body["kind"], namespace, body["metadata"]["name"])
        if key in self.objects:
            return problem(409, "already exists")
        return self._keep(key, body, 201)

    async def _replace(self, request: Request, kind: str, namespace: str, name: str) -> Response:
        body = json.loads(await request.body())
        current = self.services.get((namespace, name)) if kind == "InferenceService" else None
        before = current.service if current else self.objects.get((kind, namespace, name))
        if before is None:
            return problem(404, f"{kind} {name} not found")
        if body["metadata"].get("resourceVersion") != before["metadata"]["resourceVersion"]:
            return problem(409, "the object has been modified")
        if denied := _refused(admission.denied(body, before if current else None)):
            return denied
        if current is None:
            return self._keep((kind, namespace, name), body, 200)
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self._serve(body, current)
        return JSONResponse(current.service)

    def _keep(self, key: tuple[str, str, str], body: Object, status: int) -> Response:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = body
        return JSONResponse(body, status)

    def _serve(self, body: Object, current: FakeService | None) -> None:
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        if current is not None:
            current.change({k: v for k, v in body.items() if k != "status"})
            return
        body["metadata"] |= {"generation": 1, "uid": f"uid-{self._version}"}
        siblings = [v for k, v in self.objects.items() if k[1] == namespace]
        self.services[namespace, name] = FakeService(
            copy.deepcopy(body),
            siblings,
            self.kserve,
            has_secret=lambda secret: ("Secret", namespace, secret) in self.objects,
        )

    def _delete_pod(self, namespace: str, name: str) -> Response:
        for (where, _), service in self.services.items():
            for workload in service.workloads.values():
                if where == namespace and name in workload.pods:
                    workload.pods.remove(name)
        return JSONResponse({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}})

    def _stream(self, events: list[tuple[str, Object]]) -> Response:
        lines = (json.dumps({"type": kind, "object": each}) + "\n" for kind, each in events)
        return StreamingResponse(iter(list(lines)))

    async def _watch(
        self, kind: str, namespace: str, name: str, timeout_s: float
    ) -> AsyncIterator[str]:
        """Everything that is there, then what each turn of the controllers makes of it."""
        shown: dict[str, str] = {}
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            if kind == "InferenceService":
                for (where, _), service in self.services.items():
                    if where == namespace:
                        service.turn()
            now = {each["metadata"]["name"]: each for each in self._listed(kind, namespace)}
            for gone in set(shown) - set(now):
                del shown[gone]
                named = {"metadata": {"name": gone}, "kind": kind, "apiVersion": "v1"}
                yield json.dumps({"type": "DELETED", "object": named}) + "\n"
            for each, value in now.items():
                if name in ("", each) and shown.get(each) != json.dumps(value):
                    event = "MODIFIED" if each in shown else "ADDED"
                    shown[each] = json.dumps(value)
                    yield json.dumps({"type": event, "object": value}) + "\n"
            await asyncio.sleep(PACE_S)

    def _keys(self, namespace: str) -> Object:
        """What the servers' keys are mounted from."""
        secret = self.objects.get(("Secret", namespace, "qwen3-asr-api-keys"), {})
        found: Object = secret.get("data", {})
        return found

    # -- what jobs of the tests' own do --------------------------------------------------------

    def _ran(self, job: Object) -> Object:
        """A job's status: those that ask an address get through by the network policies."""
        [container] = job["spec"]["template"]["spec"]["containers"]
        url = urlsplit(container["command"][-1])
        by_address = url.hostname and url.hostname.startswith("10.0.")
        if by_address and not self._reaches(job["metadata"]["namespace"], url):
            return {"failed": 1, "conditions": [{"type": "Failed", "status": "True"}]}
        return {"succeeded": 1}

    def _reaches(self, source: str, url: SplitResult) -> bool:
        space = self.objects.get(("Namespace", "", source), {"metadata": {}})
        labels = {**space["metadata"].get("labels", {}), "kubernetes.io/metadata.name": source}
        for namespace in {where for where, _ in self.services}:
            policies = [v for k, v in self.objects.items() if k[:2] == ("NetworkPolicy", namespace)]
            for pod in self._listed("Pod", namespace):
                if pod["status"]["podIP"] == url.hostname:
                    return network.allowed(policies, pod["metadata"]["labels"], url.port, labels)
        return False
