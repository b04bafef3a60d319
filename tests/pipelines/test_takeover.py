"""Who wins: a rollback against a run that is alive, was interrupted or was killed, and twice."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.lib.errors import RolloutError
from pipelines.rollout.driver import NotReachedError
from pipelines.rollout.lease import HeldError, TakenOverError
from pipelines.rollout.plan import Plan
from pipelines.rollout.state import Phase
from pipelines.rollout.watch import Look
from tests.pipelines.fake_controller import NAMESPACE, inference_service
from tests.pipelines.test_promote import FEW, Site, Sites
from tests.pipelines.test_promote import site as site
from tests.pipelines.test_rollout import CANDIDATE, MODES, PLAN, STABLE, Stage, Start
from tests.pipelines.test_rollout import start as start

OTHER = "s3://models/other"
ROOT = Path(__file__).parents[2]


class Interrupt:
    """A watcher that does something once the candidate has a share, in the middle of a soak."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act, self._done = act, False

    def check(self) -> None:
        pass

    def begin(self, _stable: str, _candidate: str) -> None:
        pass

    def look(self, _next_percent: int) -> Look:
        if not self._done:
            self._done = True
            self._act()
        return Look()


def whole(stage: Stage, owner: str, plan: Plan = PLAN) -> Any:
    rollout = stage.rollout(owner, plan)
    rollout.deploy(copy.deepcopy(inference_service("any", CANDIDATE)["spec"]["predictor"]))
    return rollout.shift(["it is better"])


def promoted(stage: Stage) -> None:
    rollout = stage.rollout()
    rollout.deploy(stage.candidate())
    assert rollout.shift([]).promoted


@pytest.mark.parametrize("mode", MODES)
def test_a_rollback_takes_a_running_promotion_over(start: Start, mode: str) -> None:
    stage = start(mode)
    before = copy.deepcopy(stage.fake.service["spec"])
    back = stage.rollout("back")
    running = stage.rollout("run-1", watcher=Interrupt(lambda: back.rollback(["customers"])))
    running.deploy(stage.candidate())
    with pytest.raises(TakenOverError, match="back has taken this rollout over"):
        running.shift([])
    assert stage.fake.service["spec"] == before
    assert stage.fake.split() == {STABLE: 100}
    assert stage.shares() == [0, 5, 0]
    status = back.status()
    assert (status["phase"], status["reasons"]) == ("rolled-back", ["customers"])
    assert (status["settled"], status["driven_by"]) == (True, None)


@pytest.mark.parametrize("mode", MODES)
def test_a_change_that_was_overtaken_is_a_conflict(start: Start, mode: str) -> None:
    """The rollback comes between a run's last look at the state and its change of the traffic."""
    stage = start(mode)
    back = stage.rollout("back")
    running = stage.rollout("run-1")
    running.deploy(stage.candidate())
    seen: list[str] = []

    def overtake(what: str) -> None:
        if what == "PUT inferenceservices" and not seen:
            seen.append(what)
            back.rollback(["customers"])

    stage.fake.before_write = overtake
    with pytest.raises(TakenOverError):
        running.shift([])
    assert seen
    assert stage.fake.split() == {STABLE: 100}
    assert stage.shares() == [0]
    assert back.status()["settled"]


@pytest.mark.parametrize("mode", MODES)
def test_a_second_rollback_has_nothing_to_do(start: Start, mode: str) -> None:
    for promote_first in (False, True):
        stage = start(mode)
        rollout = stage.rollout()
        rollout.deploy(stage.candidate())
        if promote_first:
            rollout.shift([])
        first = stage.rollout("a").rollback(["customers"])
        assert (first.phase, first.percent) == (Phase.ROLLED_BACK, 0)
        spec, made = copy.deepcopy(stage.fake.service["spec"]), len(stage.fake.workloads)
        assert stage.rollout("b").rollback(["again"]) == first
        assert stage.fake.split() == {STABLE: 100}
        assert (stage.fake.service["spec"], len(stage.fake.workloads)) == (spec, made)


@pytest.mark.parametrize("mode", MODES)
def test_a_promotion_is_reverted_at_once_and_without_a_gap(start: Start, mode: str) -> None:
    stage = start(mode)
    promoted(stage)
    slow = Plan(soak_s=3600, poll_s=0.001, ready_timeout_s=5)  # nobody soaks on the way back
    assert stage.rollout("back", slow).rollback(["customers"]).phase is Phase.ROLLED_BACK
    assert stage.shares() == [0, 5, 50, 100, 0]
    assert stage.fake.unready == []
    assert stage.rollout().status()["settled"]
    stage.rollout().deploy(stage.candidate(OTHER))
    assert stage.rollout().shift([]).promoted
    assert stage.fake.split() == {OTHER: 100}


@pytest.mark.parametrize("mode", MODES)
def test_a_reversion_that_cannot_be_is_given_up(start: Start, mode: str) -> None:
    """The old weights are gone: the promoted version keeps the traffic, and says so."""
    stage = start(mode)
    promoted(stage)
    stage.fake.broken.add(STABLE)
    if mode == "Knative":
        stage.fake.broken_names = {"qwen3-asr-predictor-00003"}
    brief = Plan(ready_timeout_s=0.2, poll_s=0.001)
    for _ in range(2):
        with pytest.raises(NotReachedError, match="reverting 100: not reached"):
            stage.rollout("back", brief).rollback(["customers"])
        assert stage.fake.split() == {CANDIDATE: 100}
    with pytest.raises(RolloutError, match="stands at reverting 100"):
        stage.rollout().deploy(stage.candidate(OTHER))
    assert stage.rollout("back").abort(["keep it"]).phase is Phase.PROMOTED
    assert stage.fake.split() == {CANDIDATE: 100}
    stage.rollout().deploy(stage.candidate(OTHER))
    assert stage.rollout().shift([]).promoted


@pytest.mark.parametrize("mode", MODES)
def test_a_reversion_is_given_up_when_it_is_ready_too(start: Start, mode: str) -> None:
    stage = start(mode)
    promoted(stage)
    stage.fake.fail_after = 4  # lease, owner, reverting, applied: killed while it waits
    with pytest.raises(RolloutError):
        stage.rollout("back").rollback(["customers"])
    stage.revive()
    assert stage.rollout().status()["phase"] == "reverting"
    for _ in range(5):
        stage.fake.turn()
    assert stage.rollout("other").abort(["keep it"]).phase is Phase.PROMOTED
    assert set(stage.shares()[-1:]) == {100}
    assert stage.rollout("back").rollback(["after all"]).phase is Phase.ROLLED_BACK
    assert stage.fake.split() == {STABLE: 100}


@pytest.mark.parametrize("mode", MODES)
def test_two_runs_never_drive_one_rollout(start: Start, mode: str) -> None:
    stage = start(mode)
    first = stage.rollout("run-1", replace(PLAN, lease_s=3))
    with first.held():
        first.deploy(stage.candidate())
        with pytest.raises(HeldError, match="is driven by run run-1, which is alive"):
            stage.rollout("run-2").shift([])
    assert stage.rollout("run-2").shift([]).promoted  # it was given back


def test_a_lease_of_a_killed_run_is_waited_for(start: Start) -> None:
    stage = start("Knative")
    stage.fake.fail_after = 8
    brief = replace(PLAN, lease_s=1)
    with pytest.raises(RolloutError):
        whole(stage, "run-1", brief)
    stage.fake.fail_after = None
    [lease] = stage.fake.leases.values()
    assert lease["spec"]["holderIdentity"] == "run-1"
    assert whole(stage, "run-2", brief).promoted
    [lease] = stage.fake.leases.values()
    assert lease["spec"]["leaseTransitions"] >= 1


def test_a_lease_is_renewed_while_it_is_held_and_its_loss_is_noticed(start: Start) -> None:
    stage = start("Knative")
    renewed = threading.Event()
    stage.fake.before_write = lambda what: renewed.set() if what == "PUT leases" else None
    plan = Plan(poll_s=0.001, lease_s=0.03)
    lease = stage.reach().lease("run-1", plan.lease_s)
    with lease.held():
        assert renewed.wait(10)
        taken_over = pytest.raises(TakenOverError, match="run run-2 has taken this rollout over")
        with stage.reach().lease("run-2", 60).held(force=True), taken_over:
            lease.wait(60)  # ends as soon as a renewal tells
    current = lease.current()
    assert current is None  # run-1 did not take back what it had lost; run-2 gave it back


@pytest.mark.parametrize("mode", MODES)
def test_pause_and_resume(start: Start, mode: str) -> None:
    stage = start(mode)
    other = stage.rollout("other")
    seen: list[int] = []

    class Watch(Interrupt):
        def look(self, next_percent: int) -> Look:
            seen.append(stage.fake.split().get(CANDIDATE, 0))
            if len(seen) == 30:
                assert other.resume() is True  # the run that is alive goes on
            return super().look(next_percent)

    running = stage.rollout("run-1", watcher=Watch(lambda: other.pause("until Monday")))
    running.deploy(stage.candidate())
    assert running.shift([]).promoted
    assert len(set(seen[:30])) == 1
    assert stage.shares() == [0, 5, 50, 100]
    with pytest.raises(RolloutError, match="nothing moves: the rollout stands at promoted 100"):
        other.pause("too late")


def test_a_paused_rollout_waits_for_whoever_comes(start: Start) -> None:
    stage = start("Knative")
    rollout = stage.rollout()
    rollout.deploy(stage.candidate())
    rollout.pause("until Monday")
    assert rollout.status()["paused"] == "until Monday"
    assert stage.rollout("b").resume() is False  # nobody is alive to go on
    assert stage.rollout("b").shift([]).promoted


@pytest.mark.parametrize("mode", MODES)
def test_abort_and_full(start: Start, mode: str) -> None:
    stage = start(mode)
    other = stage.rollout("other", Plan(soak_s=3600, poll_s=0.001, ready_timeout_s=5))
    running = stage.rollout("run-1", watcher=Interrupt(other.finish_now))
    running.deploy(stage.candidate())
    with pytest.raises(RolloutError, match="only a candidate that was accepted"):
        other.finish_now()
    running = stage.rollout("run-1", watcher=Interrupt(other.finish_now))
    with pytest.raises(TakenOverError, match="stands at promoted 100"):
        running.shift(["good"])
    assert stage.shares() == [0, 5, 100]
    with pytest.raises(RolloutError, match="nothing is under way: it is promoted"):
        other.abort([])

    stage = start(mode)
    other = stage.rollout("other")
    running = stage.rollout("run-1", watcher=Interrupt(lambda: other.abort(["enough"])))
    running.deploy(stage.candidate())
    with pytest.raises(TakenOverError):
        running.shift([])
    assert stage.fake.split() == {STABLE: 100}


# -- with real processes and real signals --------------------------------------------------------


def promotion(site: Site) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "pipelines", "promote", "qwen3-asr", f"--namespace={NAMESPACE}",
        *site.access(), f"--storage-uri={CANDIDATE}", f"--ingress={site.ingress}",
        f"--data={site.manifest}", f"--out={site.folder / 'out'}", "--quiet", "--resamples=300",
        "--concurrency=2", "--soak-s=600", "--poll-s=0.01", *FEW,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def until_traffic(site: Site, run: subprocess.Popen[str]) -> None:
    """Until the candidate has its first share."""
    while not site.cluster.split().get(CANDIDATE):
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(0.05)


@pytest.mark.parametrize("how", ["alive", "SIGINT", "SIGTERM", "SIGKILL"])
def test_rollback_after_signals(site: Sites, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    built = site("Knative", stable=20, candidate=2)
    run = promotion(built)
    try:
        until_traffic(built, run)
        if how != "alive":
            run.send_signal(getattr(signal, how))
            run.wait(60)
        holder = next(iter(built.cluster.leases.values()))["spec"]["holderIdentity"]
        assert bool(holder) is (how in ("alive", "SIGKILL"))
        for _ in range(2):
            assert built.run("rollback", "--poll-s=0.01", "--reason=regret") == 0
            assert "rolled back\n- regret" in capsys.readouterr().out
            assert built.cluster.split() == {STABLE: 100}
        out, _ = run.communicate(timeout=600)
    finally:
        run.kill()
    codes = {"alive": 1, "SIGINT": 130, "SIGTERM": 130, "SIGKILL": -signal.SIGKILL}
    assert run.returncode == codes[how]
    assert how != "alive" or "- regret" in out  # what it was stopped for
    assert built.run("status") == 0
    assert "phase: rolled-back" in capsys.readouterr().out
    assert built.cluster.split() == {STABLE: 100}
