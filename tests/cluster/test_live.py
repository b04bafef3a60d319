"""Live speech through Knative: a session ends by the server's word and goes on in the next."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from websockets.sync.client import ClientConnection

from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.live import COMPLETED, Ended, hear, open_session, say, talk
from tests.cluster.service_api import Object
from tests.cluster.status import is_ready

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
GOING_AWAY = 1001
SCALING = "autoscaling.knative.dev/"
NUM_SESSIONS = 6  # in each round
KEPT = 4  # as many as one pod is to have


def heard(ended: Ended) -> str:
    return "".join(event["transcript"] for event in ended.of(COMPLETED)).strip()


def test_speech_goes_on_past_the_routes_timeout(
    deploy: Deploy, target: Target, record: Record
) -> None:
    """dev-cpu's sessions last 50 s and its route 60: nobody in between closes the connection, and
    two sessions, the second with the first one's token, hear more than the route lets one hear."""
    deployment = deploy("dev-cpu")
    url = deployment.service.wait("the service ready", is_ready)["status"]["url"]
    begun, query, reasons = time.monotonic(), "", []
    for _ in range(2):
        with open_session(target.knative, url, query) as session:
            ended = talk(session, timeout_s=120)
        assert ended.code == GOING_AWAY, ended
        assert heard(ended)
        last = ended.of("session.expiring")[-1]
        assert (last["reason"], last["expires_in_s"]) == ("expired", 0)
        query = f"&resume={last['resume']}"
        reasons.append(last["reason"])
        record[f"session {len(reasons)}, audio_done_ms"] = last["audio_done_ms"]
    assert last["audio_done_ms"] > record["session 1, audio_done_ms"]
    if not target.is_fake:
        assert time.monotonic() - begun > 60
    with open_session(target.knative, url, query) as session:
        assert "session" in session.recv(timeout=60)


def test_a_session_on_a_pod_that_must_go_is_told(
    deploy: Deploy, target: Target, record: Record
) -> None:
    """An update or a drained node: it is asked to connect again, and another pod takes it."""

    def two(service: Object) -> None:
        service["spec"]["predictor"]["minReplicas"] = 2

    deployment = deploy("dev-cpu", change=two)
    url = deployment.service.wait("the service ready", is_ready)["status"]["url"]
    deployment.service.wait_for_pods(2)
    with open_session(target.knative, url) as session:
        session.recv(timeout=60)
        for pod in deployment.service.pods():
            deployment.service.delete_pod(pod.metadata.name)
        ended = talk(session, timeout_s=120)
    last = ended.of("session.expiring")[-1]
    assert ended.code == GOING_AWAY, ended
    with open_session(target.knative, url, f"&resume={last['resume']}") as session:
        assert "session" in session.recv(timeout=300)
    record["reason"] = last["reason"]


def test_a_scale_down_loses_no_session(deploy: Deploy, target: Target, record: Record) -> None:
    """Two pods become one while sessions are on both: the autoscaler's own doing, as at night.

    Sessions of the pod that goes are told and go on with their token; the others go on as they are.
    A first round of sessions makes the autoscaler want a second pod, a second round fills that.
    """

    def by_sessions(service: Object) -> None:
        service["metadata"]["annotations"] |= {
            SCALING + "initial-scale": "2",
            SCALING + "window": "6s",
            SCALING + "target-utilization-percentage": "100",
        }
        predictor = service["spec"]["predictor"]
        predictor |= {"timeout": 300, "scaleMetric": "concurrency", "scaleTarget": KEPT}
        predictor["containers"][0]["args"].append("--max_live_session_s=290")

    deployment = deploy("dev-cpu", change=by_sessions)
    url = deployment.service.wait("the service ready", is_ready)["status"]["url"]
    main = deployment.client(url)
    with ExitStack() as stack, ThreadPoolExecutor(NUM_SESSIONS) as pool:

        def opened() -> list[ClientConnection]:
            return [
                stack.enter_context(open_session(target.knative, url)) for _ in range(NUM_SESSIONS)
            ]

        first = opened()
        main.until(
            "two pods ready",
            lambda _: target.is_fake or deployment.service.num_ready() == 2,
            lambda: main.get("/v2/health/live"),
        )
        second = opened()
        for session in first + second:
            say(session)
        listening = [pool.submit(hear, each, 200, until_heard=True) for each in first + second]
        assert all(heard(each.result()) for each in listening)
        sessions = first[: KEPT // 2] + second[: KEPT // 2]
        for session in first + second:
            if session not in sessions:
                session.close()
        begun = time.monotonic()
        deployment.service.wait_for_pods(1)
        record["scaled_down_s"] = round(time.monotonic() - begun, 1)
        for session in sessions:
            say(session)
        rest = [pool.submit(hear, session, 200, until_heard=True) for session in sessions]
        ends = [each.result() for each in rest]
        told = [each for each in ends if each.code is not None]
        for each in told:
            assert each.code == GOING_AWAY, each
            last = each.of("session.expiring")[-1]
            assert last["reason"] == "shutdown"
            with open_session(target.knative, url, f"&resume={last['resume']}") as again:
                say(again)
                assert heard(hear(again, 200, until_heard=True))
        assert all(heard(each) for each in ends if each.code is None)
    assert 0 < len(told) < KEPT
    record["told"], record["undisturbed"] = len(told), KEPT - len(told)
