"""Whether traffic is where the status says, found out by who answers: what a real node taught."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import RolloutError
from pipelines.rollout.asker import Asker, Identities, IdentityError, fits
from pipelines.rollout.modes import main_url
from pipelines.rollout.plan import Plan
from tests.pipelines.conftest import Serve
from tests.pipelines.test_promote import CANDIDATE, NUM_CLIPS, STABLE, Sites
from tests.pipelines.test_promote import site as site
from tests.pipelines.test_rollout import Start
from tests.pipelines.test_rollout import start as start


def test_a_share_fits_what_was_counted() -> None:
    for percent in (5, 10, 25, 50, 75):
        middle = 3 * percent
        assert fits(middle, 300, percent)
        assert not fits(0, 300, percent)
        assert not fits(300, 300, percent)
    assert not fits(1, 300, 0)
    assert not fits(299, 300, 100)
    assert fits(4, 40, 5)
    assert fits(0, 40, 5)  # so few tell nothing


def test_knatives_gradual_rollout_is_waited_for(
    site: Sites, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tag twice, a status that flaps, and answers from the old revision under the new tag."""
    built = site("Knative", stable=20, candidate=2)
    built.cluster.gradual_turns = 30
    assert built.promote("--steps=50,100", "--split-timeout-s=30") == 0
    said = capsys.readouterr()
    assert "latest still leads to two revisions: Knative rolls out" in said.err
    assert built.proxy.sent == {STABLE: NUM_CLIPS, CANDIDATE: NUM_CLIPS}
    assert built.cluster.split() == {CANDIDATE: 100}


def test_routes_that_do_not_follow_are_refused(
    site: Sites, capsys: pytest.CaptureFixture[str]
) -> None:
    """KServe 0.20.0 in Standard mode: the status says 50 %, the HTTPRoute stays as it was."""
    built = site("Standard", stable=20, candidate=2)
    built.cluster.weights_follow = False
    assert built.promote("--steps=50,100", "--split-timeout-s=0.1") == 1
    said = capsys.readouterr().out
    assert (
        "0 of 60 answers are the candidate's at 50 %: the routes do not follow the status" in said
    )
    assert built.cluster.split() == {STABLE: 100}
    assert built.run("status") == 0


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
def test_a_service_that_does_not_say_what_it_is(
    site: Sites, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    built = site(mode, stable=20, candidate=2)
    for service in built.services.values():
        service.identity = None
    if mode == "Standard":
        assert built.promote() == 1
        assert "whether traffic follows the status cannot be seen" in capsys.readouterr().out
        assert built.cluster.split() == {STABLE: 100}
    assert built.promote("--split-samples=0" if mode == "Standard" else "--split-samples=60") == 0
    assert "the service does not say which model it is" in capsys.readouterr().err
    assert built.cluster.split() == {CANDIDATE: 100}


def test_a_candidate_that_is_the_stable_version_is_not_evaluated(
    site: Sites, capsys: pytest.CaptureFixture[str]
) -> None:
    built = site("Knative", stable=20, candidate=2)
    built.services[CANDIDATE].identity = built.services[STABLE].identity
    assert built.promote() == 1
    said = capsys.readouterr().out
    assert "is answered by the stable version's model digest-of-s3://models/stable" in said
    assert built.proxy.sent == {}


def test_a_candidate_that_changes_during_the_evaluation_is_refused(
    site: Sites, capsys: pytest.CaptureFixture[str]
) -> None:
    built = site("Knative", stable=20, candidate=2)
    service = built.services[CANDIDATE]
    answer = service.answer

    def changing(audio: bytes) -> dict[str, Any]:
        service.identity = "another"
        return answer(audio)

    service.answer = changing
    assert built.promote() == 1
    assert "other models answer than before" in capsys.readouterr().out
    assert built.cluster.split() == {STABLE: 100}


def test_the_metrics_tell_where_the_metadata_does_not() -> None:
    one, two = ("metrics: checkpoint=" + name for name in ("a", "b"))
    assert Identities(one, two).differ
    assert not Identities(one, one).said  # the folder's name, the same for all weights
    assert Identities("digest", "digest").said
    assert not Identities("digest", "digest").differ
    assert not Identities(None, "digest").said


def test_an_address_with_several_models_behind_it(serve_app: Serve) -> None:
    names = iter(["a", "a", "b"] * 100)

    async def metadata(_request: Request) -> JSONResponse:
        return JSONResponse({"properties": {"model_identity": next(names)}})

    url = serve_app(Starlette(routes=[Route("/v2/models/{name}", metadata)]))
    asker = Asker(ServiceOptions("http://unused"), direct=True)
    with pytest.raises(IdentityError, match="several models answer at one address: a 8, b 4"):
        asker.only(url, lambda: False)
    with pytest.raises(IdentityError, match="metadata cannot be asked: HTTP 404"):
        asker.only(url + "/nothing", lambda: False)


def test_a_candidate_that_never_becomes_ready_ends_with_1(
    site: Sites, capsys: pytest.CaptureFixture[str]
) -> None:
    built = site("Knative", stable=20, candidate=2)
    built.cluster.broken.add(CANDIDATE)
    assert built.promote("--ready-timeout-s=0.5", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["promoted"], found["phase"]) == (False, "rolled-back")
    assert "is not ready" in found["reasons"][0]
    assert built.cluster.routed == [{STABLE: 100}]


def test_a_status_that_is_settled_for_a_moment_is_not_settled(start: Start) -> None:
    stage = start("Knative", gradual_turns=20)
    rollout = stage.rollout(plan=Plan(poll_s=0.001, ready_timeout_s=5))
    endpoints = rollout.deploy(stage.candidate())
    assert endpoints is not None
    host = endpoints.candidate.removeprefix("http://")
    assert stage.fake.backends(host) == {CANDIDATE: 100}


def test_the_services_own_address_is_the_one_that_is_split(start: Start) -> None:
    knative, standard = start("Knative").fake, start("Standard").fake
    inside = "http://qwen3-asr-predictor.asr.svc.cluster.local"
    outside = "http://qwen3-asr.asr.example.com"
    assert main_url(knative.service, direct=True) == inside
    assert main_url(knative.service, direct=False) == outside
    assert main_url(standard.service, direct=True) == outside  # inside is the stable Deployment
    knative.service["status"].pop("url")
    with pytest.raises(RolloutError, match="qwen3-asr: has no address yet"):
        main_url(knative.service, direct=False)
