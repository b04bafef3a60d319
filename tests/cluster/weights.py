"""Weights for canaries in Standard mode, where KServe 0.20.0 reports their shares and weights no
route: what KServe 0.21 does (its pull requests 5912 and 5983), done by the tests.

It says nothing about KServe 0.21. What it lets be tried is all that is around it: both versions'
pods and Services as KServe makes and removes them, a real gateway that splits by weight, and
`promote`, which believes no status and counts who answers.
"""

from __future__ import annotations

import copy
import threading
from contextlib import AbstractContextManager, nullcontext

import pytest
from kubernetes import client

from tests.cluster.conftest import Record, Target
from tests.cluster.deployment import Deployment
from tests.cluster.service_api import Cluster, Object, Service

ROUTES = ("gateway.networking.k8s.io", "v1")
METHODS = ("GET", "POST")
PAUSE_S = 0.1


def weighted(service: Object, route: Object) -> Object | None:
    """KServe's route with the canaries' weights; None where none of them is to have traffic.

    The methods make it the more specific of the two, which is therefore asked first.
    """
    statuses = service.get("status", {}).get("canaryStatuses") or []
    is_ready = {each["name"]: each["ready"] for each in statuses}
    base = service["metadata"]["name"]
    shares = {
        f"{base}-{each['predictor']['name']}-predictor": each["trafficPercent"]
        for each in service["spec"].get("canary") or []
        if each["trafficPercent"] and is_ready.get(each["predictor"]["name"])
    }
    if not shares:
        return None
    spec = {key: copy.deepcopy(route["spec"][key]) for key in ("parentRefs", "hostnames", "rules")}
    for rule in spec["rules"]:
        rule["matches"] = [
            {**match, "method": method} for match in rule["matches"] for method in METHODS
        ]
        [stable] = rule["backendRefs"]
        split = {stable["name"]: 100 - sum(shares.values()), **shares}
        rule["backendRefs"] = [
            {**stable, "name": name, "weight": weight} for name, weight in split.items() if weight
        ]
    metadata = {"name": f"{base}-weights", "namespace": service["metadata"]["namespace"]}
    kind = {"apiVersion": "/".join(ROUTES), "kind": "HTTPRoute"}
    return {**kind, "metadata": metadata, "spec": spec}


def leads_to_predictor(service: Object, route: Object) -> bool:
    """Whether KServe's route leads to the predictor of the spec, and the gateway knows it."""
    parts = (service["metadata"]["name"], service["spec"]["predictor"].get("name"), "predictor")
    backends = [each["name"] for rule in route["spec"]["rules"] for each in rule["backendRefs"]]
    conditions = [c for parent in route["status"]["parents"] for c in parent["conditions"]]
    is_seen = all(
        (c["status"], c["observedGeneration"]) == ("True", route["metadata"]["generation"])
        for c in conditions
    )
    return {*backends} == {"-".join(filter(None, parts))} and is_seen


class Weights:
    """Keeps such a route beside KServe's for as long as the block lasts."""

    def __init__(self, cluster: Cluster, service: Service) -> None:
        self._cluster, self._service = cluster, service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weights")
        self._applied: Object | None = None
        self._num_led = 0  # looks in a row at which KServe's own route led to the predictor

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            try:
                self._follow()
            except client.ApiException as error:
                if error.status not in (404, 409):  # KServe is just making or removing something
                    raise

    def _follow(self) -> None:
        where = (*ROUTES, self._service.namespace, "httproutes")
        route = self._cluster.custom.get_namespaced_custom_object(*where, self._service.name)
        service = self._service.read()
        wanted = weighted(service, route)
        self._num_led = self._num_led + 1 if leads_to_predictor(service, route) else 0
        if wanted == self._applied:
            return
        if wanted is not None:
            self._cluster.apply([wanted])
        elif self._num_led > 5:
            name = f"{self._service.name}-weights"
            self._cluster.custom.delete_namespaced_custom_object(*where, name)
        else:
            return  # KServe has removed the stable version's Service, and not turned its route yet
        self._applied = wanted

    def __enter__(self) -> Weights:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def following(
    target: Target, deployment: Deployment, record: Record
) -> AbstractContextManager[object]:
    """Routes that follow in Standard mode: KServe's own from 0.21, before that the tests'."""
    if target.kserve >= (0, 21):
        return nullcontext()
    if target.is_fake:
        pytest.skip(f"KServe {target.versions['kserve']} weights no route in Standard mode")
    record["weights"] = "the tests' own"
    return Weights(target.cluster, deployment.service)
