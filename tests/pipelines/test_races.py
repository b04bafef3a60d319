"""Several runs at once, answers that are lost, clocks that differ, and a Prometheus that is odd."""

from __future__ import annotations

import math
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from pipelines.cli import main
from pipelines.lib.errors import RolloutError
from pipelines.rollout.driver import PausedError
from pipelines.rollout.kube import Patience
from pipelines.rollout.lease import HeldError, Lease, TakenOverError
from pipelines.rollout.series import QueryError, Series
from pipelines.rollout.state import Phase
from pipelines.rollout.watch import Look, PrometheusWatcher
from tests.pipelines.conftest import Serve
from tests.pipelines.fake_controller import NAMESPACE
from tests.pipelines.test_promote import write_kubeconfig
from tests.pipelines.test_rollout import CANDIDATE, MODES, STABLE, Stage, Start
from tests.pipelines.test_rollout import start as start
from tests.pipelines.test_takeover import whole
from tests.pipelines.test_watch import QUICK, Looks, prometheus, until

NOT_BEGUN = "there is no rollout"


def writes_of_a_promotion(stage: Stage) -> int:
    assert whole(stage, "run-1").promoted
    return len(stage.fake.writes)


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
def test_a_rollback_wins_whenever_it_comes(start: Start, mode: str) -> None:
    """Before each write of a promotion that is alive, in turn."""
    for number in range(writes_of_a_promotion(start(mode))):
        stage = start(mode)
        came: list[object] = []

        def overtake(_what: str, stage: Stage = stage, at: int = number, came: Any = came) -> None:
            if len(stage.fake.writes) == at and not came:
                came.append(None)
                try:
                    came[0] = stage.rollout("back").rollback(["customers"])
                except RolloutError as error:
                    came[0] = error

        stage.fake.before_write = overtake
        begun = True
        try:
            assert whole(stage, "run-1").promoted
        except TakenOverError:
            begun = False
        if begun:  # nothing was there yet, or the promotion was over and was reverted
            assert NOT_BEGUN in str(came[0]) or stage.fake.split() == {STABLE: 100}
            continue
        assert stage.fake.split() == {STABLE: 100}
        assert stage.fake.unready == []
        assert stage.rollout("look").status()["settled"]


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
def test_full_wins_whenever_it_comes(start: Start, mode: str) -> None:
    for number in range(writes_of_a_promotion(start(mode))):
        stage = start(mode)
        came: list[object] = []

        def overtake(_what: str, stage: Stage = stage, at: int = number, came: Any = came) -> None:
            if len(stage.fake.writes) == at and not came:
                came.append(None)
                try:
                    came[0] = stage.rollout("other").finish_now()
                except RolloutError as error:
                    came[0] = error

        stage.fake.before_write = overtake
        try:
            assert whole(stage, "run-1").promoted
        except TakenOverError:
            if isinstance(came[0], RolloutError):  # too early: it was taken over all the same
                assert "only a candidate that was accepted" in str(came[0])
                stage.fake.before_write = None
                assert whole(stage, "run-1").promoted
        assert stage.fake.split() == {CANDIDATE: 100}
        assert stage.rollout("look").status()["settled"]


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
def test_one_lost_answer_changes_nothing(start: Start, mode: str) -> None:
    """Each write in turn is done and its answer lost; the call is tried again."""
    for number in range(writes_of_a_promotion(start(mode))):
        stage = start(mode)
        stage.fake.drop_answer = number
        rollout = stage.rollout(attempts=2)
        rollout.deploy(stage.candidate())
        assert rollout.shift(["it is better"]).promoted
        assert stage.shares() == [0, 5, 50, 100]
        stage.fake.drop_answer = len(stage.fake.writes) + number
        assert stage.rollout("back", attempts=2).rollback(["no"]).phase is Phase.ROLLED_BACK
        assert stage.fake.split() == {STABLE: 100}
        assert stage.rollout("look").status()["settled"]


def test_a_rollback_that_another_one_overtakes_says_how_it_stands(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = start("Standard")
    stage.rollout().deploy(stage.candidate())
    access = [f"--kubeconfig={write_kubeconfig(tmp_path / 'k', stage.url)}", "--api-attempts=1"]

    def overtake(what: str) -> None:
        if what == "PUT inferenceservices":
            stage.fake.before_write = None
            stage.rollout("second").rollback(["both of us"])

    stage.fake.before_write = overtake
    command = ["rollback", "qwen3-asr", f"--namespace={NAMESPACE}", *access, "--poll-s=0.001"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "run second has taken this rollout over" in said.err
    assert said.out == "rolled back\n- asked for by hand\n"  # the reason that it began with


# -- clocks ---------------------------------------------------------------------------------------


def skewed(stage: Stage, holder: str, seconds: float, duration_s: float = 1.0) -> Lease:
    """A run's lease on a machine whose clock is so far ahead."""
    return Lease(
        stage.api(), NAMESPACE, "qwen3-asr-rollout", holder, duration_s, Patience(attempts=1),
        clock=lambda: datetime.now(UTC) + timedelta(seconds=seconds),
    )  # fmt: skip


@pytest.mark.parametrize("seconds", [-300.0, 300.0])
def test_a_run_that_is_alive_keeps_its_lease_whatever_its_clock_says(
    start: Start, seconds: float
) -> None:
    stage = start("Knative")
    with skewed(stage, "run-1", seconds).held():
        here = stage.reach().lease("run-2", 1)
        living = here.living()
        assert living is not None
        assert living.name == "run-1"
        with pytest.raises(HeldError, match="run-1, which is alive"), here.held():
            pytest.fail("two runs hold it")


@pytest.mark.parametrize("seconds", [-300.0, 300.0])
def test_a_killed_run_is_waited_for_by_ones_own_clock(start: Start, seconds: float) -> None:
    stage = start("Knative")
    with skewed(stage, "run-1", seconds).held():
        [kept] = [dict(lease["spec"]) for lease in stage.fake.leases.values()]
    for lease in stage.fake.leases.values():
        lease["spec"] = kept  # it was killed: nothing was given back
    here = stage.reach().lease("run-2", 1)
    assert here.living() is None
    with here.held():
        holder = here.current()
        assert holder is not None
        assert holder.name == "run-2"


def test_a_run_that_is_started_once_more_takes_over_from_itself(start: Start) -> None:
    """A pod that counts as lost may still be alive when the next one has its name."""
    stage = start("Knative")
    lost, replaced = (stage.reach().lease("run-1", 0.03) for _ in range(2))
    with lost.held():
        with replaced.held():
            with pytest.raises(TakenOverError, match="run run-1, started once more, has taken"):
                lost.wait(60)
            replaced.wait(0.1)  # which goes on
        assert stage.reach().lease("look", 1).current() is None


def test_a_lease_that_somebody_deletes_is_made_anew(start: Start) -> None:
    stage = start("Knative")
    written = threading.Semaphore(0)
    stage.fake.before_write = lambda _what: written.release()
    lease = stage.reach().lease("run-1", 0.03)
    with lease.held():
        stage.fake.leases.clear()
        for _ in range(6):
            assert written.acquire(timeout=20)
        lease.check()
        assert stage.fake.leases


# -- pauses ---------------------------------------------------------------------------------------


def test_a_resume_just_then_does_not_hide_that_a_run_has_paused(start: Start) -> None:
    stage = start("Knative")
    watcher = Looks(Look(both="20 % of both fail"))

    def resume(what: str) -> None:
        if what == "PUT configmaps" and watcher.asked:
            stage.fake.before_write = None
            stage.rollout("other").resume()

    stage.fake.before_write = resume
    running = stage.rollout(plan=QUICK, watcher=watcher)
    running.deploy(stage.candidate())
    with pytest.raises(PausedError):
        running.shift([])
    assert stage.fake.before_write is None
    assert stage.rollout("look").status()["paused"] == "20 % of both fail"


class Begins(Looks):
    """Cannot be asked so many times when traffic is about to move."""

    def __init__(self, num_silent: int) -> None:
        super().__init__(Look())
        self.num_silent = num_silent

    def begin(self, _stable: str, _candidate: str) -> None:
        self.num_silent -= 1
        if self.num_silent >= 0:
            raise QueryError("Prometheus does not answer")


def test_an_accepted_candidate_is_not_thrown_away_for_a_silent_prometheus(start: Start) -> None:
    stage = start("Knative")
    rollout = stage.rollout(plan=QUICK, watcher=Begins(4))
    rollout.deploy(stage.candidate())
    assert rollout.shift([]).promoted

    stage = start("Knative")
    rollout = stage.rollout(plan=QUICK, watcher=Begins(5))
    rollout.deploy(stage.candidate())
    with pytest.raises(PausedError, match="paused at 0 %: 5 times in a row: Prometheus does not"):
        rollout.shift([])
    status = stage.rollout("look").status()
    assert (status["phase"], status["driven_by"]) == ("dark", None)
    assert status["paused"].startswith("5 times in a row")


# -- Prometheus -----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_value_that_is_no_number_is_none(tmp_path: Path, serve_app: Serve) -> None:
    """A real Prometheus hands NaN on as it was scraped."""
    page = {"value": "7"}

    async def metrics(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            "# TYPE qwen3_asr_requests counter\n"
            f'qwen3_asr_requests_total{{code="200"}} {page["value"]}\n'
        )

    target = serve_app(Starlette(routes=[Route("/metrics", metrics)]))
    with prometheus(tmp_path, {"new": target}) as url:
        series = Series(url, "asr")
        series.begin()
        raw = f"{series.selector(['new'])}[60s]"

        def scraped(value: str) -> bool:
            found = series._query(raw)
            return any(v == value for each in found for _, v in each["values"])

        until(lambda: scraped("7"))
        assert series.added(["new"])["new"].requests == 0
        page["value"] = "NaN"
        until(lambda: scraped("NaN"))
        assert series.added(["new"])["new"].requests == 0
        page["value"] = "12"
        until(lambda: scraped("12"))
        assert series.added(["new"])["new"].requests == 5


def answer(result: object) -> dict[str, object]:
    return {"status": "success", "data": {"result": result}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"status": "success"}, "without a result"),
        ({"status": "success", "data": None}, "without a result"),
        (answer([{"metric": {}, "value": [1, "1"]}]), "without samples"),
        (answer([{"metric": {}, "values": [["soon", "1"]]}]), "without samples"),
        ([], "refuses"),
    ],
)
def test_an_answer_that_is_none_is_a_failed_look(serve_app: Serve, body: object, said: str) -> None:
    bodies: list[object] = [answer([100, "100"]), body]

    async def query(_request: Request) -> JSONResponse:
        return JSONResponse(bodies.pop(0) if len(bodies) > 1 else bodies[0])

    url = serve_app(Starlette(routes=[Route("/api/v1/query", query, methods=["POST"])]))
    watcher = PrometheusWatcher(url, "asr")
    watcher.begin("old", "new")
    assert said in watcher.look(50).failed
    with pytest.raises(QueryError):
        Series(url, "asr").begin()


def test_old_samples_and_none_at_all_leave_it_open(serve_app: Serve) -> None:
    def counters(at: float, revision: str, value: str) -> dict[str, object]:
        labels = {"__name__": "qwen3_asr_requests_total", "code": "500", "revision": revision}
        return {"metric": labels, "values": [[at - 1, "0"], [at, value]]}

    stale = answer([counters(90, "old", "5"), counters(90, "new", "5000")])
    bodies = [answer([100, "100"]), stale, answer([])]

    async def query(_request: Request) -> JSONResponse:
        return JSONResponse(bodies.pop(0) if len(bodies) > 1 else bodies[0])

    url = serve_app(Starlette(routes=[Route("/api/v1/query", query, methods=["POST"])]))
    watcher = PrometheusWatcher(url, "asr")
    watcher.begin("old", "new")
    for _ in range(2):
        look = watcher.look(50)
        assert look == Look(undecided="0 of 700 requests have reached the candidate")
    assert not math.isnan(watcher._evidence.requests)
