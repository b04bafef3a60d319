"""Rollouts on a fake cluster through the real Kubernetes client, in both deployment modes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from kubernetes import client

from pipelines.lib.errors import OptionError, RolloutError
from pipelines.rollout.cluster import Cluster
from pipelines.rollout.driver import DriftError
from pipelines.rollout.kube import Patience
from pipelines.rollout.machine import Rollout
from pipelines.rollout.plan import Plan
from pipelines.rollout.standard import AUTOSCALER_CLASS, StandardMode
from pipelines.rollout.state import Phase, Predictor, State, covers
from pipelines.rollout.watch import Look
from tests.pipelines.conftest import Serve
from tests.pipelines.fake_cluster import FakeCluster
from tests.pipelines.fake_controller import NAMESPACE, inference_service

STABLE, CANDIDATE = "s3://models/stable", "s3://models/candidate"
MODES = ("Knative", "Standard")
PLAN = Plan(steps=(5, 50, 100), soak_s=0.005, ready_timeout_s=5, poll_s=0.001, lease_s=60)
Start = Callable[..., "Stage"]


class Watcher:
    """Finds something wrong once the candidate has the given share."""

    def __init__(self, cluster: FakeCluster, bad_at: int | None = None) -> None:
        self.cluster, self.bad_at, self.seen = cluster, bad_at, []  # type: ignore[var-annotated]

    def check(self) -> None:
        pass

    def begin(self, stable_version: str, candidate_version: str) -> None:
        self.seen.append((stable_version, candidate_version))

    def look(self, next_percent: int) -> Look:
        share = self.cluster.split().get(CANDIDATE, 0)
        return Look(("it is slow",) if self.bad_at is not None and share >= self.bad_at else ())


class Stage:
    """A fake cluster, its API's address and rollouts on it."""

    def __init__(self, fake: FakeCluster, url: str) -> None:
        self.fake, self.url = fake, url

    def rollout(
        self, owner: str = "run-1", plan: Plan = PLAN, *, attempts: int = 1, **kwargs: Any
    ) -> Rollout:
        return Rollout(self.reach(attempts), plan, owner=owner, **kwargs)

    def reach(self, attempts: int = 1) -> Cluster:
        return Cluster(self.api(), NAMESPACE, "qwen3-asr", Patience(attempts, first_pause_s=0.001))

    def api(self) -> client.ApiClient:
        return client.ApiClient(client.Configuration(host=self.url))

    def revive(self) -> None:
        """The run before was killed: what it left is as it is, and its lease has run out."""
        self.fake.fail_after = None
        self.fake.expire_leases()

    def candidate(self, uri: str = CANDIDATE) -> Predictor:
        predictor: Predictor = copy.deepcopy(self.fake.service["spec"]["predictor"])
        predictor["model"]["storageUri"] = uri
        return predictor

    def shares(self, uri: str = CANDIDATE) -> list[int]:
        """The candidate's share of the traffic, every change of it."""
        found = [split.get(uri, 0) for split in self.fake.routed]
        return [b for a, b in pairwise([None, *found]) if a != b]


@pytest.fixture
def start(serve_app: Serve) -> Start:
    def begin(mode: str, **kwargs: Any) -> Stage:
        fake = FakeCluster(inference_service(mode, STABLE), **kwargs)
        return Stage(fake, serve_app(fake.app()))

    return begin


@pytest.mark.parametrize("mode", MODES)
def test_a_good_candidate_is_stepped_up_and_promoted(start: Start, mode: str) -> None:
    stage = start(mode)
    watcher = Watcher(stage.fake)
    rollout = stage.rollout(watcher=watcher)
    endpoints = rollout.deploy(stage.candidate())
    assert endpoints is not None
    hosts = [url.removeprefix("http://") for url in (endpoints.stable, endpoints.candidate)]
    assert [stage.fake.backends(host) for host in hosts] == [{STABLE: 100}, {CANDIDATE: 100}]
    assert stage.shares() == [0]
    outcome = rollout.shift(["it is better"])
    assert outcome.promoted
    assert outcome.reasons == ("it is better",)
    assert stage.shares() == [0, 5, 50, 100]
    spec = stage.fake.service["spec"]
    assert spec["predictor"]["model"]["storageUri"] == CANDIDATE
    assert spec["predictor"]["maxReplicas"] == 4
    assert "canaryTrafficPercent" not in spec["predictor"]
    assert not spec.get("canary")
    assert len(set(watcher.seen)) == 1
    status = rollout.status()
    assert (status["phase"], status["settled"], status["finished"]) == ("promoted", True, True)
    assert [entry["percent"] for entry in status["history"]] == [0, 5, 50, 100, 100]


@pytest.mark.parametrize("mode", MODES)
def test_no_pod_is_started_anew_by_stepping_and_promoting(start: Start, mode: str) -> None:
    stage = start(mode)
    rollout = stage.rollout()
    rollout.deploy(stage.candidate())
    running = {name: id(w) for name, w in stage.fake.workloads.items() if w.uri == CANDIDATE}
    rollout.shift([])
    workloads = stage.fake.workloads
    assert {n: id(w) for n, w in workloads.items() if w.uri == CANDIDATE} == running
    assert all(w.starts == 1 for w in workloads.values())
    assert len(workloads) == (2 if mode == "Knative" else 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad_at", [5, 50, 100])
def test_a_bad_candidate_is_rolled_back_at_any_step(start: Start, mode: str, bad_at: int) -> None:
    stage = start(mode)
    before = copy.deepcopy(stage.fake.service["spec"])
    rollout = stage.rollout(watcher=Watcher(stage.fake, bad_at))
    rollout.deploy(stage.candidate())
    outcome = rollout.shift(["it is better"])
    assert (outcome.promoted, outcome.phase) == (False, Phase.ROLLED_BACK)
    assert outcome.reasons == (f"at {bad_at} %: it is slow",)
    assert stage.shares() == [0, *(s for s in PLAN.steps if s <= bad_at), 0]
    assert stage.fake.service["spec"] == before
    assert stage.fake.split() == {STABLE: 100}


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_candidate_never_gets_traffic(start: Start, mode: str) -> None:
    stage = start(mode)
    before = copy.deepcopy(stage.fake.service["spec"])
    rollout = stage.rollout()
    rollout.deploy(stage.candidate())
    outcome = rollout.undo(["it is worse"])
    assert (outcome.promoted, outcome.reasons) == (False, ("it is worse",))
    assert stage.shares() == [0]
    assert stage.fake.service["spec"] == before
    assert rollout.undo(["again"]) == outcome


@pytest.mark.parametrize("mode", MODES)
def test_a_candidate_that_never_becomes_ready_is_rolled_back(start: Start, mode: str) -> None:
    stage = start(mode, broken={CANDIDATE})
    before = copy.deepcopy(stage.fake.service["spec"])
    rollout = stage.rollout(plan=Plan(ready_timeout_s=0.3, poll_s=0.001))
    with pytest.raises(RolloutError, match=r"dark 0: not reached within 0.3 s: .*not ready"):
        rollout.deploy(stage.candidate())
    assert stage.shares() == [0]
    assert stage.fake.service["spec"] == before
    assert rollout.status()["phase"] == "rolled-back"


@pytest.mark.parametrize("mode", MODES)
def test_another_candidate_has_to_wait(start: Start, mode: str) -> None:
    stage = start(mode)
    rollout = stage.rollout()
    candidate, other = stage.candidate(), stage.candidate("s3://models/other")
    rollout.deploy(candidate)
    with pytest.raises(RolloutError, match="of another candidate stands at dark 0"):
        rollout.deploy(other)
    rollout.deploy(candidate)  # the same again is no mistake
    rollout.undo([])
    rollout.deploy(other)
    assert rollout.shift([]).promoted


@pytest.mark.parametrize("mode", MODES)
def test_a_change_by_someone_else_is_left_alone(start: Start, mode: str) -> None:
    stage = start(mode)
    rollout = stage.rollout()
    rollout.deploy(stage.candidate())
    stage.fake.edit(maxReplicas=9)
    with pytest.raises(
        DriftError, match="changed by someone else: its generation is 3, ours was 2"
    ):
        rollout.shift([])
    assert stage.fake.service["spec"]["predictor"]["maxReplicas"] == 9
    assert rollout.undo(["by hand"]).phase is Phase.ROLLED_BACK
    assert stage.fake.split() == {STABLE: 100}


@pytest.mark.parametrize("mode", MODES)
def test_a_promoted_version_is_reverted_by_rolling_the_old_one_out(start: Start, mode: str) -> None:
    stage = start(mode)
    rollout = stage.rollout()
    rollout.deploy(stage.candidate())
    rollout.shift([])
    promoting = len(stage.fake.beside)
    outcome = rollout.rollback(["it was a mistake"])
    assert (outcome.promoted, outcome.reasons) == (False, ("it was a mistake",))
    assert stage.fake.split() == {STABLE: 100}
    for split in stage.fake.routed:
        assert sum(split.values()) == 100
    if mode == "Standard":  # by weight first: KServe removes a Service before it turns the route
        assert {0, 100} == {*stage.fake.beside[promoting:]}


def test_knative_gives_an_unrolled_canary_everything_so_it_is_not_started(start: Start) -> None:
    stage = start("Knative", broken={STABLE})
    with pytest.raises(RolloutError, match="no revision has been rolled out yet"):
        stage.rollout().deploy(stage.candidate())
    assert stage.fake.config_maps == {}


def test_knative_keeps_the_percentage_until_the_restored_revision_is_ready(start: Start) -> None:
    """Without it, traffic would follow "latest", which is the bad candidate until then."""
    stage = start("Knative")
    rollout = stage.rollout()
    rollout.deploy(stage.candidate())
    stage.fake.ready_after = 40
    rollout.undo(["it is worse"])
    assert stage.shares() == [0]
    assert len(stage.fake.workloads) == 3


@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_be_started_is_refused(start: Start, mode: str) -> None:
    stage = start(mode)
    with pytest.raises(RolloutError, match="nothing to roll out"):
        stage.rollout().deploy(stage.candidate(STABLE))
    if mode == "Knative":
        stage.fake.edit(canaryTrafficPercent=10)
    else:
        entry = {"trafficPercent": 1, "predictor": {"name": "v7"}}
        stage.fake.service["spec"]["canary"] = [entry]
    with pytest.raises(RolloutError, match="another canary is on"):
        stage.rollout().deploy(stage.candidate())
    nothing = Cluster(client.ApiClient(client.Configuration(host=stage.url)), NAMESPACE, "nothing")
    with pytest.raises(RolloutError, match="InferenceService asr/nothing: does not exist"):
        Rollout(nothing, PLAN).deploy({})


def test_an_api_that_does_not_answer_is_named(unused_tcp_port: int) -> None:
    configuration = client.Configuration(host=f"http://127.0.0.1:{unused_tcp_port}")
    configuration.retries = False
    patience = Patience(attempts=1)
    cluster = Cluster(client.ApiClient(configuration), NAMESPACE, "qwen3-asr", patience)
    with pytest.raises(RolloutError, match="the Kubernetes API does not answer"):
        cluster.read()


def test_plans_and_states_are_checked() -> None:
    for steps in ((), (5, 50), (50, 5, 100), (0, 100)):
        with pytest.raises(OptionError, match="must rise from at least 1 and end at 100"):
            Plan(steps=steps)
    for text in ("", "{}", '{"version": 2}', "[]"):
        with pytest.raises(RolloutError, match="rollout state"):
            State.from_json(text)


def test_covers() -> None:
    assert covers({"a": 1, "b": [{"c": 1, "d": 2}]}, {"b": [{"c": 1}]})
    assert not covers({"b": [1, 2]}, {"b": [1]})
    assert not covers({"a": {"b": 1}}, {"a": {"b": 2}})
    assert not covers({}, {"a": 1})


@pytest.mark.parametrize(
    ("scaler", "expected"), [("keda", {AUTOSCALER_CLASS: "none"}), ("hpa", {})]
)
def test_a_canary_beside_a_keda_scaler_says_that_it_has_none(
    scaler: str, expected: dict[str, str]
) -> None:
    """KServe 0.20's controller on a real API server: a scaler without triggers stops everything."""
    service = {
        "metadata": {"name": "asr", "annotations": {AUTOSCALER_CLASS: scaler}},
        "spec": {"predictor": {"minReplicas": 1}},
    }
    state = State("r", "Standard", Phase.CANARY, 10, {"minReplicas": 1}, {"name": "new"}, "asr")
    StandardMode().apply(service, state)
    assert service["spec"]["canary"][0]["predictor"].get("annotations", {}) == expected
