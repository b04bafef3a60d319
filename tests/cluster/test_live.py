"""Live speech through Knative: a session ends by the server's word and goes on in the next."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.live import COMPLETED, open_session, talk
from tests.cluster.status import is_ready

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
GOING_AWAY = 1001


def test_a_session_ends_before_the_route_cuts_it(
    deploy: Deploy, target: Target, record: Record
) -> None:
    """dev-cpu's sessions last 50 s and its route 60: nobody in between closes the connection."""
    if target.is_fake:
        pytest.skip("the fake has no live speech")
    deployment = deploy("dev-cpu")
    url = deployment.service.wait("the service ready", is_ready)["status"]["url"]
    with open_session(target.knative, url) as session:
        ended = talk(session, timeout_s=120)
    assert ended.code == GOING_AWAY, ended
    assert "".join(event["transcript"] for event in ended.of(COMPLETED)).strip()
    last = ended.of("session.expiring")[-1]
    assert (last["reason"], last["expires_in_s"]) == ("expired", 0)
    with open_session(target.knative, url, f"&resume={last['resume']}") as session:
        assert "session" in session.recv(timeout=60)
    record["events"] = len(ended.events)


def test_a_session_on_a_pod_that_must_go_is_told(
    deploy: Deploy, target: Target, record: Record
) -> None:
    """A scale-down or an update: it is asked to connect again, and another pod takes it."""
    if target.is_fake:
        pytest.skip("the fake has no live speech")

    def two(service: dict[str, object]) -> None:
        service["spec"]["predictor"]["minReplicas"] = 2  # type: ignore[index]

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
