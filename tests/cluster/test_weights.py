"""The tests' own weights: the route they make of KServe's, as Gateway API's types have it."""

from __future__ import annotations

import pytest

from tests.cluster.service_api import Object
from tests.cluster.weights import leads_to_predictor, weighted

STABLE, CANARY = "qwen3-asr-predictor", "qwen3-asr-candidate-predictor"


def service(percent: int, ready: bool) -> Object:
    status = {"name": "candidate", "ready": ready, "trafficPercent": percent}
    canary = {"trafficPercent": percent, "predictor": {"name": "candidate"}}
    return {
        "metadata": {"name": "qwen3-asr", "namespace": "speech"},
        "spec": {"predictor": {}, "canary": [canary]},
        "status": {"canaryStatuses": [status]},
    }


def kserves_route() -> Object:
    """As KServe 0.20.0 makes it (createRawTopLevelHTTPRoute)."""
    reference = {"kind": "Service", "name": STABLE, "namespace": "speech", "port": 80}
    rule = {
        "matches": [{"path": {"type": "RegularExpression", "value": "^/.*$"}}],
        "backendRefs": [reference],
        "timeouts": {"request": "600s"},
    }
    parents = [{"name": "kserve-ingress-gateway", "namespace": "kserve"}]
    accepted = {"type": "ResolvedRefs", "status": "True", "observedGeneration": 2}
    return {
        "metadata": {"generation": 2},
        "spec": {"parentRefs": parents, "hostnames": ["a.example.com"], "rules": [rule]},
        "status": {"parents": [{"conditions": [accepted]}]},
    }


@pytest.mark.parametrize(
    ("percent", "split"), [(10, {STABLE: 90, CANARY: 10}), (100, {CANARY: 100})]
)
def test_a_ready_canary_has_its_share(percent: int, split: dict[str, int]) -> None:
    made = weighted(service(percent, ready=True), kserves_route())
    assert made is not None
    [rule] = made["spec"]["rules"]
    assert {each["name"]: each["weight"] for each in rule["backendRefs"]} == split
    assert {each["method"] for each in rule["matches"]} == {"GET", "POST"}
    assert rule["timeouts"] == {"request": "600s"}


@pytest.mark.parametrize(("percent", "ready"), [(0, True), (10, False)])
def test_a_dark_canary_or_one_that_is_not_ready_has_none(percent: int, ready: bool) -> None:
    assert weighted(service(percent, ready), kserves_route()) is None


def test_weights_stay_until_kserves_own_route_leads_to_the_predictor() -> None:
    """On its way there KServe removes the old one's Service first: its route goes nowhere."""
    route, promoted = kserves_route(), service(100, ready=True)
    assert leads_to_predictor(promoted, route)
    promoted["spec"]["predictor"]["name"] = "candidate"
    assert not leads_to_predictor(promoted, route)
    route["spec"]["rules"][0]["backendRefs"][0]["name"] = CANARY
    assert leads_to_predictor(promoted, route)
    route["metadata"]["generation"] = 3
    assert not leads_to_predictor(promoted, route)
