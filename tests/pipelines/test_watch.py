"""The watch on a real Prometheus, on its silence, and what a rollout makes of both."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from pipelines.lib.errors import OptionError
from pipelines.lib.webhook import Webhook
from pipelines.rollout.driver import PausedError
from pipelines.rollout.limits import WatchLimits
from pipelines.rollout.plan import Plan
from pipelines.rollout.series import QueryError, Series
from pipelines.rollout.state import Phase
from pipelines.rollout.watch import Look, PrometheusWatcher
from predictor.metrics import Metrics
from tests.pipelines.conftest import Serve
from tests.pipelines.test_rollout import CANDIDATE, STABLE, Start
from tests.pipelines.test_rollout import start as start

VERSIONS = OLD, NEW = "asr-predictor-00001", "asr-predictor-00002"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Debian's prometheus is not installed"
)


class Pod:
    """The predictor's own metrics on a page; `restart` begins them anew."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/metrics", self.page)])

    async def page(self, _request: Request) -> PlainTextResponse:
        return PlainTextResponse(generate_latest(self.registry).decode())

    def answer(self, number: int, code: int = 200, seconds: float = 0.4) -> None:
        for _ in range(number):
            self.metrics.requests.labels("v2", str(code)).inc()
            self.metrics.request_seconds.labels("v2").observe(seconds)


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[str]:
    """A real one, scraping each revision's address every second; gives its URL."""
    jobs = [
        {"targets": [urlsplit(url).netloc], "labels": {"namespace": "asr", "revision": revision}}
        for revision, url in targets.items()
    ]
    scrape = [{"job_name": "asr", "static_configs": jobs}]
    document = {"global": {"scrape_interval": "1s"}, "scrape_configs": scrape}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = ""
        for line in process.stderr:
            if match := re.search(r'msg="Listening on".*? address=(\S+)', line):
                address = match[1]
                break
        assert address, "Prometheus did not start"
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        until(lambda: httpx.get(f"http://{address}/-/ready").is_success)  # it listens before
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)
        drain.join(timeout=30)
        process.stderr.close()


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(240):
        if holds():
            return
        pause.wait(0.25)
    raise TimeoutError("not within 60 s")


@needs_prometheus
def test_counts_of_a_real_prometheus_are_exact(tmp_path: Path, serve_app: Serve) -> None:
    """Requests from before do not count; new codes, restarts and each bucket do, to the last."""
    old, new = Pod(), Pod()
    old.answer(500)
    new.answer(300, seconds=7)  # the evaluation's
    urls = {OLD: serve_app(old.app()), NEW: serve_app(new.app())}
    with prometheus(tmp_path, urls) as url:
        series = Series(url, "asr")
        until(lambda: _num_series(series) > 20)
        series.begin()
        until(lambda: {OLD, NEW} <= _targets_begun(series))
        totals = {v: {"codes": {}, "slow": 0.0} for v in VERSIONS}  # type: ignore[var-annotated]

        def collect() -> None:
            for version, gained in series.added(VERSIONS).items():
                for code, number in gained.codes.items():
                    known = totals[version]["codes"]
                    known[code] = known.get(code, 0.0) + number
                whole = gained.seconds.get(float("inf"), 0.0)
                totals[version]["slow"] += whole - gained.seconds.get(0.5, 0.0)

        collect()
        assert [t["codes"] for t in totals.values()] == [{}, {}]
        old.answer(20)
        new.answer(3)
        new.answer(2, code=503, seconds=2)  # a series that was not there before
        until(lambda: collect() or totals[NEW]["codes"] == {"200": 3, "503": 2})
        until(lambda: collect() or totals[OLD]["codes"] == {"200": 20})
        new.restart()
        new.answer(1, code=429, seconds=3)
        new.answer(4)
        wanted = {"200": 7, "503": 2, "429": 1}
        until(lambda: collect() or totals[NEW]["codes"] == wanted)
        assert (totals[NEW]["slow"], totals[OLD]["slow"]) == (3, 0)
        series.check()
        with pytest.raises(QueryError, match=r"Prometheus refuses .*parse error"):
            series._query("sum(")


def _num_series(series: Series) -> int:
    return len(series._query(series.selector(VERSIONS)))


def _targets_begun(series: Series) -> set[str]:
    series.added(VERSIONS)
    return {dict(key)["revision"] for key in series._last}


@needs_prometheus
def test_a_failing_candidate_is_stopped_by_a_real_prometheus(
    tmp_path: Path, serve_app: Serve, start: Start
) -> None:
    stage = start("Knative")
    old, new = Pod(), Pod()
    urls = {"qwen3-asr-predictor-00001": old, "qwen3-asr-predictor-00002": new}
    served = {revision: serve_app(pod.app()) for revision, pod in urls.items()}
    with prometheus(tmp_path, served) as url:
        watcher = PrometheusWatcher(url, "asr", WatchLimits(min_requests=20))
        plan = Plan(steps=(25, 100), soak_s=120, poll_s=0.2, ready_timeout_s=10)
        asked = threading.Event()

        def traffic() -> None:
            while not asked.wait(0.05):
                if stage.fake.split().get(CANDIDATE):
                    old.answer(30)
                    new.answer(8)
                    new.answer(2, code=500)

        users = threading.Thread(target=traffic)
        users.start()
        try:
            rollout = stage.rollout(plan=plan, watcher=watcher)
            rollout.deploy(stage.candidate())
            outcome = rollout.shift(["it is better"])
        finally:
            asked.set()
            users.join()
    assert outcome.phase is Phase.ROLLED_BACK
    assert re.match(
        r"at 25 %: [12]\d\.\d% of (\d+|the) requests to the candidate", outcome.reasons[0]
    )
    assert stage.fake.split() == {STABLE: 100}


class Looks:
    """Hands out what is to be seen, the last of it again and again."""

    def __init__(self, *looks: Look) -> None:
        self.looks = list(looks)
        self.asked: list[int] = []

    def check(self) -> None:
        pass

    def begin(self, _stable: str, _candidate: str) -> None:
        pass

    def look(self, next_percent: int) -> Look:
        self.asked.append(next_percent)
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


QUICK = Plan(steps=(5, 50, 100), soak_s=0, poll_s=0.001, ready_timeout_s=5, max_wait_s=0)


def test_only_several_failed_looks_in_a_row_pause_it(start: Start) -> None:
    stage = start("Knative")
    silent, fine = Look(failed="Prometheus does not answer"), Look()
    rollout = stage.rollout(plan=QUICK, watcher=Looks(*[silent] * 4, fine, *[silent] * 4, fine))
    rollout.deploy(stage.candidate())
    assert rollout.shift([]).promoted

    stage = start("Standard")
    rollout = stage.rollout(plan=QUICK, watcher=Looks(fine, silent))
    rollout.deploy(stage.candidate())
    with pytest.raises(PausedError, match="paused at 50 %: 5 times in a row: Prometheus does not"):
        rollout.shift([])
    assert stage.fake.split() == {STABLE: 50, CANDIDATE: 50}
    status = rollout.status()
    assert status["paused"].startswith("5 times in a row")
    assert (status["finished"], status["driven_by"]) == (False, None)
    again = stage.rollout("run-2", plan=QUICK, watcher=Looks(fine))
    assert again.resume() is False
    assert again.shift([]).promoted
    assert stage.shares() == [0, 5, 50, 100]


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (Look(undecided="3 of 50 requests have reached it"), "3 of 50 .* too few to judge it"),
        (Look(both="20% of both fail"), "20% of both fail"),
    ],
)
def test_what_is_not_the_candidates_pauses_it(start: Start, look: Look, said: str) -> None:
    stage = start("Knative")
    rollout = stage.rollout(plan=QUICK, watcher=Looks(look))
    rollout.deploy(stage.candidate())
    with pytest.raises(PausedError, match=said):
        rollout.shift([])
    assert stage.fake.split() == {STABLE: 95, CANDIDATE: 5}


def test_a_step_lasts_until_enough_is_known(start: Start) -> None:
    stage = start("Knative")
    looks = Looks(*[Look(undecided="3 of 50")] * 20, Look())
    plan = Plan(steps=(5, 50, 100), soak_s=0, poll_s=0.001, ready_timeout_s=5)
    rollout = stage.rollout(plan=plan, watcher=looks)
    rollout.deploy(stage.candidate())
    assert rollout.shift([]).promoted
    assert looks.asked[:21] == [50] * 21  # the share that would come next


def test_a_prometheus_that_is_not_there_is_found_out_first(
    start: Start, unused_tcp_port: int
) -> None:
    stage = start("Knative")
    watcher = PrometheusWatcher(f"http://127.0.0.1:{unused_tcp_port}", "asr")
    with pytest.raises(QueryError, match="Prometheus does not answer"):
        stage.rollout(watcher=watcher).deploy(stage.candidate())
    assert stage.fake.config_maps == {}
    with pytest.raises(OptionError, match="prometheus: 'host:9090' does not start with"):
        PrometheusWatcher("host:9090", "asr")
    with pytest.raises(OptionError, match="is no label value"):
        Series("http://host", "asr").selector(['x"} or vector(1)'])


def test_each_step_is_told_to_the_webhook(start: Start, serve_app: Serve) -> None:
    told: list[dict[str, Any]] = []

    async def hook(request: Request) -> JSONResponse:
        told.append(json.loads(await request.body()))
        return JSONResponse({}, 500 if len(told) == 2 else 200)  # one that fails stops nothing

    url = serve_app(Starlette(routes=[Route("/hook", hook, methods=["POST"])]))
    stage = start("Knative")
    log: list[str] = []
    rollout = stage.rollout(notifier=Webhook(url + "/hook"), log=log.append)
    rollout.deploy(stage.candidate())
    assert rollout.shift(["it is better"]).promoted
    assert [(each["event"], each["percent"]) for each in told] == [
        ("dark", 0), ("canary", 5), ("canary", 50), ("canary", 100), ("promoted", 100),
    ]  # fmt: skip
    assert told[-1]["text"] == ("asr/qwen3-asr: promoted, candidate at 100 %\n- it is better")
    assert "webhook: HTTP 500" in log
    told.clear()
    rollout.rollback(["customers complain"])
    assert [each["event"] for each in told] == ["reverting", "rolled-back"]
    with pytest.raises(OptionError, match="webhook: 'chat' does not start with"):
        Webhook("chat")
