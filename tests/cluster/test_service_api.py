"""The parts of the cluster tests that need no cluster."""

from __future__ import annotations

import threading

import httpx
import pytest

from tests.cluster.service_api import Caller, Entry, is_ready, label_of, latest_share, tag_url

DARK = {
    "metadata": {"generation": 2},
    "status": {
        "observedGeneration": 2,
        "conditions": [{"type": "Ready", "status": "True"}],
        "components": {
            "predictor": {
                "traffic": [
                    {
                        "revisionName": "p-1",
                        "percent": 100,
                        "tag": "prev",
                        "url": "http://prev-p.ns",
                    },
                    {"revisionName": "p-2", "percent": 0, "latestRevision": True}
                    | {"tag": "latest", "url": "http://latest-p.ns"},
                ]
            }
        },
    },
}


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
    assert is_ready(DARK)
    assert latest_share(DARK) == 0
    assert tag_url(DARK, "latest") == "http://latest-p.ns"
    with pytest.raises(LookupError, match="tag next"):
        tag_url(DARK, "next")


def test_a_status_of_an_older_generation_is_not_ready() -> None:
    assert not is_ready({**DARK, "metadata": {"generation": 3}})


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
