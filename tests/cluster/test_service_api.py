"""The parts of the cluster tests that need no cluster."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from tests.cluster.answers import Caller, Entry, label_of
from tests.cluster.status import (
    Holds,
    Object,
    dark_beside,
    is_ready,
    newest,
    promoted,
    replaced,
    revisions,
    shared,
    split,
    tag_url,
)
from tests.pipelines.fake_cluster import FakeCluster
from tests.pipelines.fake_controller import inference_service

FIRST = "s3://models/first"

SECOND = "s3://models/second"


def status_of(component: Object, ready: str = "True") -> Object:
    return {
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "components": {"predictor": component},
        }
    }


def target(revision: str, percent: int, tag: str | None = None) -> Object:
    named = {"tag": tag, "url": f"http://{tag}-p.ns"} if tag else {}
    return {"revisionName": revision, "percent": percent, **named}


DARK = status_of(
    {
        "latestCreatedRevision": "p-2",
        "latestReadyRevision": "p-2",
        "latestRolledoutRevision": "p-1",
        "traffic": [target("p-2", 0, "latest"), target("p-1", 100, "prev")],
    }
)


def test_an_entry_keeps_the_services_host_name() -> None:
    address, headers = Entry("http://127.0.0.1:8080/").request_to(
        "http://asr.ns.example.com", "/v2"
    )
    assert (address, headers) == ("http://127.0.0.1:8080/v2", {"Host": "asr.ns.example.com"})
    assert Entry(None).request_to("http://asr.example.com", "/v2") == (
        "http://asr.example.com/v2",
        {},
    )


def test_status_of_a_dark_canary() -> None:
    assert dark_beside("p-1")(DARK)
    assert not dark_beside("p-2")(DARK)
    assert split(DARK) == {"p-1": 100}
    assert revisions(DARK) == {"p-1", "p-2"}
    assert tag_url(DARK, "latest") == "http://latest-p.ns"
    with pytest.raises(LookupError, match="tag next"):
        tag_url(DARK, "next")


def test_a_revision_that_is_still_starting_is_not_ready() -> None:
    component = {"latestCreatedRevision": "p-2", "latestReadyRevision": "p-1"}
    assert not is_ready(status_of(component))
    assert not is_ready(status_of({}))
    assert is_ready(status_of({**component, "latestReadyRevision": "p-2"}))


def test_a_way_back_that_is_half_done_is_not_taken_for_done() -> None:
    """KServe first splits the traffic over the new revision alone: 0 % and 100 % of the same."""
    half = status_of(
        {
            "latestCreatedRevision": "p-2",
            "latestReadyRevision": "p-2",
            "latestRolledoutRevision": "p-2",
            "traffic": [target("p-2", 0, "latest"), target("p-2", 100, "prev")],
        }
    )
    assert not shared({"p-1": 100})(half)
    assert promoted("p-2")(half)


def test_the_waits_of_a_rollout_end_when_the_traffic_is_there() -> None:
    """Against the fake controller of the pipelines' tests, one reconciliation at a time."""
    cluster = FakeCluster(inference_service("Knative", FIRST))
    service = cluster.service
    service["metadata"]["annotations"]["serving.kserve.io/enable-tag-routing"] = "true"
    for _ in range(5):
        cluster.turn()
    first = str(newest(service))

    def step(holds: Holds, expected: dict[str, int], **change: Any) -> None:
        cluster.edit(**change)
        for _ in range(10):
            if holds(service):
                break
            cluster.turn()
        assert holds(service)
        assert cluster.split() == expected

    model = service["spec"]["predictor"]["model"]
    second = {**model, "storageUri": SECOND}
    step(dark_beside(first), {FIRST: 100}, canaryTrafficPercent=0, model=second)
    new = str(newest(service))
    for percent in (10, 50):
        shares = {first: 100 - percent, new: percent}
        expected = {FIRST: 100 - percent, SECOND: percent}
        step(shared(shares), expected, canaryTrafficPercent=percent)
    step(promoted(new), {SECOND: 100}, canaryTrafficPercent=None)
    step(shared({first: 100}), {FIRST: 100}, canaryTrafficPercent=0)
    step(
        replaced({first, new}), {FIRST: 100}, canaryTrafficPercent=None, model=model, minReplicas=0
    )


def test_label_of_a_metrics_page() -> None:
    page = '# HELP x\nqwen3_asr_model_info{checkpoint="/a/tiny",device="cpu"} 1.0\n'
    assert label_of(page, "qwen3_asr_model_info", "checkpoint") == "/a/tiny"


def test_a_caller_counts_answers_and_failures() -> None:
    codes = iter([200, 503, 200])
    done = threading.Event()

    def answer(_: httpx.Request) -> httpx.Response:
        code = next(codes, None)
        if code is None:
            done.set()
            raise httpx.ConnectError("gone")
        return httpx.Response(code, text="busy")

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        Caller(lambda: client.get("http://asr.example.com/")) as caller,
    ):
        assert done.wait(timeout=30)
    assert caller.codes[200] == 2
    assert "503 busy" in caller.failures[0]
    assert "ConnectError" in caller.failures[1]
