"""On Knative: a canary by who answers, its way back, zero, a lost pod, and what Knative refuses.

    KUBECONFIG=… QWEN3_ASR_ENTRY=http://127.0.0.1:8080 python -m pytest -m cluster tests/cluster

README.md has the rest. Each test makes a namespace of its own and takes it away.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.answers import Caller, Client
from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.deployment import Deployment
from tests.cluster.service_api import Object
from tests.cluster.status import (
    dark_beside,
    is_ready,
    messages,
    newest,
    promoted,
    replaced,
    revisions,
    shared,
    tag_url,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
SECOND = "tiny-early"  # the other checkpoint inside the image
NUM_SAMPLES = 200  # requests to estimate a share from
SCALING = "autoscaling.knative.dev/"


def first_version(deployment: Deployment) -> tuple[str, Client]:
    """(revision, client) once the service is there and has transcribed."""
    begun = time.monotonic()
    ready = deployment.service.wait("the first version ready", is_ready)
    deployment.figures["ready_s"] = round(time.monotonic() - begun, 1)
    main = deployment.client(ready["status"]["url"])
    answer = main.transcribe()
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].strip()
    deployment.figures["transcript_s"] = round(time.monotonic() - begun, 1)
    return str(newest(ready)), main


def canary(percent: int | None, service: Object | None = None, checkpoint: str = "") -> Object:
    """A merge patch: the share of the newest revision, and which checkpoint `service` serves."""
    predictor: Object = {"canaryTrafficPercent": percent}
    if service is not None:  # a merge patch replaces lists whole
        [container] = service["spec"]["predictor"]["containers"]
        arguments = ["--model_name=qwen3-asr", f"--model_dir=/app/checkpoints/{checkpoint}"]
        predictor["containers"] = [{**container, "args": [*arguments, "--http_port=8080"]}]
    return {"spec": {"predictor": predictor}}


def test_a_canary_by_who_answers(deploy: Deploy, record: Record) -> None:
    deployment = deploy("dev-cpu")
    service = deployment.service
    first, main = first_version(deployment)
    stable = main.identity()
    with Caller(main.transcribe) as caller:
        service.patch(canary(0, service.read(), SECOND))
        dark = service.wait("a dark second revision", dark_beside(first))
        second = str(newest(dark))
        apart = deployment.client(tag_url(dark, "latest"))
        candidate = apart.identity()
        assert candidate != stable
        record["tag_s"] = apart.until_all(candidate, timeout_s=60)
        assert apart.shares(50) == {candidate: 50}
        assert apart.transcribe().status_code == 200
        assert main.shares(NUM_SAMPLES) == {stable: NUM_SAMPLES}
        # Bounds that a right split misses about once in ten million runs.
        for percent, low, high in ((10, 1, 55), (50, 60, 140)):
            service.patch(canary(percent))
            service.wait(f"{percent} %", shared({first: 100 - percent, second: percent}))
            seen = main.until_share(candidate, low, high, NUM_SAMPLES)
            record[f"{percent} %"] = dict(seen)
        service.patch(canary(None))
        service.wait("all to the second version", promoted(second))
        record["promoted_s"] = main.until_all(candidate, 50)
        # KServe goes back in two steps; after the first the second version still has everything.
        service.patch(canary(0))
        service.wait("the way back", shared({first: 100}))
        record["back_s"] = main.until_all(stable, 50)
    assert caller.failures == []
    assert caller.codes[200] > 0
    record |= {**deployment.figures, "answered": caller.codes[200], "failed": 0}


@pytest.mark.parametrize("waiting", [1, 20])
def test_zero_and_back(waiting: int, deploy: Deploy, record: Record) -> None:
    """Requests that come at zero wait for the pod and are answered, not refused."""

    def to_zero(service: Object) -> None:
        service["spec"]["predictor"]["minReplicas"] = 0
        service["metadata"]["annotations"] |= {
            SCALING + "window": "6s",
            SCALING + "scale-to-zero-pod-retention-period": "0s",
            SCALING + "scale-down-delay": "0s",
        }

    deployment = deploy("dev-cpu", change=to_zero)
    _, main = first_version(deployment)
    deployment.service.wait_for_pods(0)
    begun = time.monotonic()
    with ThreadPoolExecutor(waiting) as pool:
        answers = list(pool.map(lambda _: main.transcribe(), range(waiting)))
    record |= {**deployment.figures, "woken_s": round(time.monotonic() - begun, 1)}
    assert [answer.status_code for answer in answers] == [200] * waiting


def test_a_pod_is_lost_under_load(deploy: Deploy, record: Record) -> None:
    def two(service: Object) -> None:
        service["spec"]["predictor"]["minReplicas"] = 2

    deployment = deploy("dev-cpu", change=two)
    _, main = first_version(deployment)
    deployment.service.wait_for_pods(2)
    with Caller(main.transcribe) as caller:
        gone = deployment.service.pods()[0].metadata.name
        deployment.service.delete_pod(gone)
        assert main.transcribe().status_code == 200
        deployment.service.wait_for_pods(2)
        main.shares(50)
    assert caller.failures == []
    record["answered"] = caller.codes[200]


def test_an_update_without_a_canary_is_there_at_once(deploy: Deploy, record: Record) -> None:
    """No gradual rollout: once the status says so, every answer is the new version's."""
    deployment = deploy("dev-cpu")
    service = deployment.service
    _, main = first_version(deployment)
    stable, before = main.identity(), service.read()
    service.patch(canary(None, before, SECOND))
    ready = service.wait("the update", replaced(revisions(before)))
    apart = deployment.client(tag_url(ready, "latest"))
    candidate = apart.identity()
    assert candidate != stable
    record["moved_s"] = main.until_all(candidate, 50, timeout_s=60)


@pytest.mark.usefixtures("record")
def test_what_knative_refuses_is_in_the_conditions(deploy: Deploy) -> None:
    """Applying succeeds; the status has Knative's words, and no revision is made."""

    def wrong(service: Object) -> None:
        service["metadata"]["annotations"][SCALING + "activation-scale"] = "1"

    deployment = deploy("dev-cpu", change=wrong)
    refused = "activation-scale=1 must be greater than 1"
    deployment.service.wait("the refusal", lambda service: refused in messages(service))
    assert deployment.service.pods() == []


def test_dev_cpu_runs_as_written(deploy: Deploy, target: Target, record: Record) -> None:
    """Server and queue-proxy and no agent; the server's process has no privileges to lose."""
    deployment = deploy("dev-cpu")
    first_version(deployment)
    [pod] = deployment.service.pods()
    assert {each.name for each in pod.spec.containers} == {"kserve-container", "queue-proxy"}
    assert pod.spec.termination_grace_period_seconds <= 60
    [server] = [each for each in pod.spec.containers if each.name == "kserve-container"]
    assert server.startup_probe.period_seconds == 1
    said = target.run_in(deployment.namespace, pod.metadata.name, ["cat", "/proc/1/status"])
    process = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert process["Uid"].split() == ["1000"] * 4
    assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0
    assert (process["NoNewPrivs"].strip(), process["Seccomp"].strip()) == ("1", "2")
    record |= deployment.figures


def test_production_makes_a_service(deploy: Deploy, record: Record) -> None:
    """Its scaling, monitoring and network policy, on a node without a GPU."""
    deployment = deploy("production", weights="tiny")
    first_version(deployment)
    record |= {**deployment.figures, "missing": deployment.missing}
