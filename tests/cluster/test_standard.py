"""In Standard mode: overlays that answer, the way in by HTTPS, and a canary by who answers."""

from __future__ import annotations

import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelMetadataRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kubernetes import client as kubernetes

from tests.cluster.answers import Caller, Client
from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.deployment import Deployment
from tests.cluster.service_api import Object
from tests.cluster.status import conditions, is_ready
from tests.cluster.weights import following

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
FIRST, SECOND, MISSING = "tiny", "tiny-early", "nowhere"
NUM_SAMPLES = 200
ROUTES = ("gateway.networking.k8s.io", "v1")


def ready(deployment: Deployment) -> tuple[Object, Client]:
    service = deployment.service.wait("the service ready", is_ready)
    client = deployment.client(service["status"]["url"])
    answer = client.transcribe()
    assert answer.status_code == 200, answer.text
    return service, client


def route(target: Target, deployment: Deployment) -> Any:
    """The HTTPRoute that KServe made for the service."""
    return target.cluster.custom.get_namespaced_custom_object(
        *ROUTES, deployment.namespace, "httproutes", deployment.service.name
    )


@pytest.mark.parametrize("overlay", ["edge", "production-standard"])
def test_an_overlay_answers_by_the_gateway(
    overlay: str, deploy: Deploy, target: Target, record: Record
) -> None:
    """Its host name is one that the listener takes, and the timeout is the service's."""
    deployment = deploy(overlay, weights=FIRST)
    service, _ = ready(deployment)
    assert service["status"]["url"].startswith("https://")
    found = route(target, deployment)
    [parent] = found["status"]["parents"]
    assert {c["type"]: c["status"] for c in parent["conditions"]}["Accepted"] == "True"
    timeouts = {rule["timeouts"]["request"] for rule in found["spec"]["rules"]}
    assert timeouts == {f"{service['spec']['predictor']['timeout']}s"}
    record["missing"] = deployment.missing


def test_a_canary_by_who_answers(deploy: Deploy, target: Target, record: Record) -> None:
    """The status says a share; the answers say whether the route follows it."""
    deployment = deploy("production-standard", ("canary-standard",), weights=FIRST)
    service = deployment.service
    before, main = ready(deployment)
    stable = main.identity()
    claim = before["spec"]["predictor"]["model"]["storageUri"].removesuffix(FIRST)
    [entry] = before["spec"]["canary"]
    entry["predictor"]["model"]["storageUri"] = claim + SECOND

    def at(percent: int) -> Object:
        return {"spec": {"canary": [{**entry, "trafficPercent": percent}]}}

    service.patch(at(0))
    service.wait("the canary ready", candidate_ready)
    assert main.shares(50) == {stable: 50}
    if target.kserve < (0, 21):
        service.patch(at(10))
        service.wait("10 % in the status", reports(10))
        assert main.shares(NUM_SAMPLES) == {stable: NUM_SAMPLES}, "0.20.0 weighted no route"
    # The tests' own route begins and ends at once; KServe's must not lose an answer.
    is_ours = target.kserve < (0, 21)
    with following(target, deployment, record):
        for percent, low, high in ((10, 1, 55), (50, 60, 140)):
            service.patch(at(percent))
            service.wait(f"{percent} % in the status", reports(percent))
            candidate = main.until_other(stable, may_be_away=is_ours)
            seen = main.until_share(candidate, low, high, NUM_SAMPLES)
            record[f"{percent} %"] = dict(seen)
        # Traffic first: KServe removes a canary's Service before it turns the route.
        service.patch(at(0))
        main.until_all(stable, 50, may_be_away=is_ours)
        service.patch({"spec": {"canary": None}})
        main.until_all(stable, 50)


@pytest.mark.usefixtures("record")
def test_a_canary_that_is_not_ready_gets_nothing(deploy: Deploy, target: Target) -> None:
    """Half of the traffic asked for, weights that are not there: KServe 0.21 waits for it."""
    if target.kserve < (0, 21):
        pytest.skip(f"KServe {target.versions['kserve']} weights no route")
    deployment = deploy("production-standard", ("canary-standard",), weights=FIRST)
    before, main = ready(deployment)
    stable = main.identity()
    claim = before["spec"]["predictor"]["model"]["storageUri"].removesuffix(FIRST)
    [entry] = before["spec"]["canary"]
    entry["predictor"]["model"]["storageUri"] = claim + MISSING
    deployment.service.patch({"spec": {"canary": [{**entry, "trafficPercent": 50}]}})
    deployment.service.wait("50 % asked for", asks(50))
    assert main.shares(NUM_SAMPLES) == {stable: NUM_SAMPLES}


def asks(percent: int) -> Any:
    def holds(service: Object) -> bool:
        listed = service["status"].get("canaryStatuses", [])
        return [(c.get("trafficPercent"), bool(c.get("ready"))) for c in listed] in (
            [(percent, False)],
            [(0, False)],
        )

    return holds


def certificate_of(address: str, port: int, name: str) -> bytes:
    """The certificate of a host name that no DNS knows; ssl's own function sends no such name."""
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, port)) as plain,
        anyone.wrap_socket(plain, server_hostname=name) as session,
    ):
        found = session.getpeercert(binary_form=True)
    assert found is not None
    return ssl.DER_cert_to_PEM_cert(found).encode()


def test_rest_and_grpc_behind_one_host(deploy: Deploy, target: Target, record: Record) -> None:
    """The second port, named grpc: KServe's GRPCRoute or HTTPRoute leads gRPC calls there."""
    if target.is_fake:
        pytest.skip("the fake speaks no gRPC")
    deployment = deploy("production-standard", ("grpc",), weights=FIRST)
    service, main = ready(deployment)
    host = urlsplit(service["status"]["url"]).netloc
    way = urlsplit(str(target.standard.address))
    options = [("grpc.default_authority", host), ("grpc.ssl_target_name_override", host)]
    where = f"{way.hostname}:{way.port or (443 if way.scheme == 'https' else 80)}"
    if way.scheme == "https":
        certificate = certificate_of(str(way.hostname), way.port or 443, host)
        channel = grpc.secure_channel(where, grpc.ssl_channel_credentials(certificate), options)
    else:
        channel = grpc.insecure_channel(where, options)
    with channel:
        metadata = ModelMetadataRequest(name="qwen3-asr")
        said = GRPCInferenceServiceStub(channel).ModelMetadata(metadata, timeout=60)
    assert said.name == "qwen3-asr"
    assert main.transcribe().status_code == 200
    record["host"] = "the same for both"


def candidate_ready(service: Object) -> bool:
    listed = service["status"].get("canaryStatuses", [])
    is_up = bool(listed) and all(each.get("ready") for each in listed)
    return is_up and conditions(service).get("Ready") == "True"


def reports(percent: int) -> Any:
    def holds(service: Object) -> bool:
        listed = service["status"].get("canaryStatuses", [])
        shares = [each.get("trafficPercent") for each in listed]
        return candidate_ready(service) and shares == [percent]

    return holds


def test_a_pod_is_lost_under_load(deploy: Deploy, target: Target, record: Record) -> None:
    deployment = deploy("production-standard", weights=FIRST)
    _, main = ready(deployment)
    if len(deployment.service.pods()) == 1:  # KEDA's kinds without KEDA, which would start another
        apps = kubernetes.AppsV1Api(target.cluster.api)
        name, scale = f"{deployment.service.name}-predictor", {"spec": {"replicas": 2}}
        apps.patch_namespaced_deployment_scale(name, deployment.namespace, scale)
        main.until(
            "two pods ready",
            lambda _: deployment.service.num_ready() == 2,
            lambda: main.get("/v2/health/live"),
        )
    deployment.service.wait_for_pods(2)
    with Caller(main.transcribe) as caller:
        deployment.service.delete_pod(deployment.service.pods()[0].metadata.name)
        deployment.service.wait_for_pods(2)
        main.shares(50)
    assert caller.failures == []
    record["answered"] = caller.codes[200]
