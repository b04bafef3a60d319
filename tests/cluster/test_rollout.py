"""On a real cluster with KServe and Knative: a dark canary, its shares, its way back, and zero.

    KUBECONFIG=... QWEN3_ASR_ENTRY=http://127.0.0.1:8080 python -m pytest -m cluster tests/cluster

QWEN3_ASR_ENTRY is an HTTP address of the ingress (or a port-forward to it); without it the
service's own host name must resolve. QWEN3_ASR_OVERLAY names another overlay than dev-cpu; its
image must be pullable (or loaded) there. The namespace qwen3-asr is made, and deleted at the end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from kubernetes import client, config

from tests.cluster.service_api import (
    Caller,
    Entry,
    Object,
    Service,
    dark_beside,
    is_ready,
    label_of,
    newest,
    promoted,
    replaced,
    revisions,
    shared,
    tag_url,
)
from tests.manifests.objects import MANIFESTS, ROOT, build, kustomize_command

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

RECORDING = next(iter(sorted((ROOT / "predictor" / "recordings").glob("*.flac"))), None)
FIRST, SECOND = "tiny", "tiny-early"  # two checkpoints inside the image
NUM_SAMPLES = 200  # requests to estimate a share from


@pytest.fixture(scope="module")
def entry() -> Entry:
    return Entry(os.environ.get("QWEN3_ASR_ENTRY"))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set: there is no cluster to try this on")
    command, reason = kustomize_command()
    if command is None:
        pytest.skip(reason)
    if RECORDING is None:
        pytest.skip("predictor/recordings has no recording to send")
    api = config.new_client_from_config()
    groups = {group.name for group in client.ApisApi(api).get_api_versions().groups}
    for needed in ("serving.kserve.io", "serving.knative.dev"):
        if needed not in groups:
            pytest.skip(f"the cluster has no {needed}")
    deployed = Service(api, "qwen3-asr", "qwen3-asr")
    if deployed.namespace_exists():
        pytest.skip("the namespace qwen3-asr is there already: this test makes and deletes its own")
    deployed.apply(build(MANIFESTS / "overlays" / os.environ.get("QWEN3_ASR_OVERLAY", "dev-cpu")))
    try:
        yield deployed
    finally:
        deployed.delete_namespace()


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=300) as session:
        yield session


class Client:
    """Calls one URL of the service through the entry."""

    def __init__(self, http: httpx.Client, entry: Entry, url: str) -> None:
        self._http, self._entry, self._url = http, entry, url

    def transcribe(self) -> httpx.Response:
        assert RECORDING is not None
        address, headers = self._entry.request_to(self._url, "/v1/audio/transcriptions")
        files = {"file": (RECORDING.name, Path(RECORDING).read_bytes(), "audio/flac")}
        return self._http.post(address, headers=headers, files=files, data={"model": "qwen3-asr"})

    def checkpoint(self) -> str:
        """Which checkpoint answers, from the metrics page of the pod that got this request."""
        address, headers = self._entry.request_to(self._url, "/metrics")
        response = self._http.get(address, headers=headers)
        response.raise_for_status()
        return Path(label_of(response.text, "qwen3_asr_model_info", "checkpoint")).name

    def shares(self) -> Counter[str]:
        return Counter(self.checkpoint() for _ in range(NUM_SAMPLES))


def canary(percent: int | None, service: Object | None = None, checkpoint: str = "") -> Object:
    """A merge patch: the share of the newest revision, and which checkpoint `service` serves."""
    predictor: Object = {"canaryTrafficPercent": percent}
    if service is not None:  # a merge patch replaces lists whole
        [container] = service["spec"]["predictor"]["containers"]
        arguments = ["--model_name=qwen3-asr", f"--model_dir=/app/checkpoints/{checkpoint}"]
        predictor["containers"] = [{**container, "args": [*arguments, "--http_port=8080"]}]
    annotations = {"serving.kserve.io/enable-tag-routing": "true"}
    return {"metadata": {"annotations": annotations}, "spec": {"predictor": predictor}}


def test_rollout(service: Service, entry: Entry, http: httpx.Client) -> None:
    ready = service.wait("the first version ready", is_ready)
    first = str(newest(ready))
    main = Client(http, entry, ready["status"]["url"])
    answer = main.transcribe()
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].strip()
    assert main.checkpoint() == FIRST

    with Caller(main.transcribe) as caller:
        service.patch(canary(0, ready, SECOND))
        dark = service.wait("a dark second revision", dark_beside(first))
        second = str(newest(dark))
        apart = Client(http, entry, tag_url(dark, "latest"))
        assert apart.checkpoint() == SECOND
        assert apart.transcribe().status_code == 200
        assert main.shares() == {FIRST: NUM_SAMPLES}

        # Bounds that a right split misses about once in ten million runs.
        for percent, low, high in ((10, 1, 55), (50, 60, 140)):
            service.patch(canary(percent))
            wanted = shared({first: 100 - percent, second: percent})
            service.wait(f"{percent} % to the second revision", wanted)
            assert low <= main.shares()[SECOND] <= high

        service.patch(canary(None))
        service.wait("all to the second version", promoted(second))
        assert main.shares() == {SECOND: NUM_SAMPLES}

        # KServe goes back in two steps; after the first the second version still has everything.
        service.patch(canary(0))
        service.wait("the way back", shared({first: 100}))
        assert main.shares() == {FIRST: NUM_SAMPLES}

    assert caller.failures == []
    assert caller.codes[200] > NUM_SAMPLES


def test_scale_to_zero_and_back(service: Service, entry: Entry, http: httpx.Client) -> None:
    """The first request after zero waits for the pod and is answered, not refused."""
    zero = {
        "autoscaling.knative.dev/window": "6s",
        "autoscaling.knative.dev/scale-to-zero-pod-retention-period": "0s",
        "autoscaling.knative.dev/scale-down-delay": "0s",
    }
    before = service.wait("the service as it was left", is_ready)
    patch = canary(None, before, FIRST)
    patch["metadata"]["annotations"] = zero
    patch["spec"]["predictor"]["minReplicas"] = 0
    service.patch(patch)
    ready = service.wait("one new version, scaling to zero", replaced(revisions(before)))
    service.wait_for_pods(0)
    answer = Client(http, entry, ready["status"]["url"]).transcribe()
    assert answer.status_code == 200, answer.text
