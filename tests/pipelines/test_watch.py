"""The queries on made-up series by Prometheus' own tool, and the watcher on a server's answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pipelines.lib.errors import OptionError, RolloutError
from pipelines.rollout.watch import PrometheusWatcher, WatchLimits
from tests.pipelines.conftest import Serve

STABLE, CANDIDATE = "asr-00001", "asr-00002"
PROMTOOL = shutil.which("promtool")


def series(name: str, revision: str, values: str, **labels: str) -> dict[str, str]:
    known = {"namespace": "asr", "revision": revision, **labels}
    text = ",".join(f'{key}="{value}"' for key, value in known.items())
    return {"series": f"{name}{{{text}}}", "values": values}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's prometheus) is not installed")
def test_queries_mean_what_they_say(tmp_path: Path) -> None:
    watcher = PrometheusWatcher("http://prometheus", "asr", WatchLimits(window_s=120))
    other = {"series": 'qwen3_asr_requests_total{namespace="x",revision="asr-00002"}'}
    steady, failing = "0+9x20", "0+1x20"  # added in each 15 s
    data = [
        series("qwen3_asr_requests_total", CANDIDATE, steady, code="200", pod="a"),
        series("qwen3_asr_requests_total", CANDIDATE, failing, code="503", pod="b"),
        series("qwen3_asr_requests_total", STABLE, "0+100x20", code="500"),
        {**other, "values": "0+1000x20"},
        series("qwen3_asr_request_seconds_bucket", CANDIDATE, "0+50x20", le="0.5", pod="a"),
        series("qwen3_asr_request_seconds_bucket", CANDIDATE, "0+100x20", le="1", pod="a"),
        series("qwen3_asr_request_seconds_bucket", CANDIDATE, "0+100x20", le="+Inf", pod="a"),
        series("qwen3_asr_confidence_sum", CANDIDATE, "0+9x20"),
        series("qwen3_asr_confidence_count", CANDIDATE, "0+10x20"),
    ]
    wanted = [
        (watcher.requests_query(CANDIDATE), 80.0),
        (watcher.requests_query("asr-00003"), 0.0),
        (watcher.failed_query(CANDIDATE), 0.1),
        (watcher.p95_query(CANDIDATE), 0.95),
        (watcher.confidence_query(CANDIDATE), 0.9),
    ]
    samples = [
        {"expr": q, "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": value}]}
        for q, value in wanted
    ]
    test = {"interval": "15s", "input_series": data, "promql_expr_test": samples}
    document = {"evaluation_interval": "15s", "tests": [test]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    found = subprocess.run(
        [str(PROMTOOL), "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr


class Prometheus:
    """Answers each query from a table by metric and revision; NaN-free unless told."""

    def __init__(self, **values: float) -> None:
        self.values = values

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/api/v1/query", self.query)])

    async def query(self, request: Request) -> JSONResponse:
        text = request.query_params["query"]
        side = "candidate" if CANDIDATE in text else "stable"
        if text.startswith("sum(increase"):
            kind = "requests"
        elif "code=" in text:
            kind = "failed"
        else:
            kind = "p95" if "quantile" in text else "confidence"
        value = self.values.get(f"{side}_{kind}")
        result: list[dict[str, Any]] = [] if value is None else [{"value": [0, str(value)]}]
        return JSONResponse({"status": "success", "data": {"result": result}})


WELL = {
    "candidate_requests": 50, "candidate_failed": 0.0,
    "stable_p95": 0.4, "candidate_p95": 0.5, "stable_confidence": 0.9, "candidate_confidence": 0.9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, None),
        ({"candidate_failed": 0.05}, "5.0% of the requests to the candidate failed"),
        ({"candidate_p95": 0.61}, "p95 latency is 0.610 s, the stable version's 0.400 s"),
        ({"candidate_confidence": 0.8}, "mean confidence is 0.800, the stable version's 0.900"),
        ({"stable_p95": None}, None),  # no traffic to compare with
        ({"stable_confidence": None}, None),
    ],
)
def test_problems(serve_app: Serve, values: dict[str, Any], problem: str | None) -> None:
    watcher = PrometheusWatcher(serve_app(Prometheus(**{**WELL, **values}).app()), "asr")
    for found in (watcher.problems(STABLE, CANDIDATE), watcher.verdict(STABLE, CANDIDATE)):
        assert len(found) == (problem is not None)
        assert problem is None or found[0].startswith(problem)


def test_too_few_requests_are_a_problem_only_at_the_end(serve_app: Serve) -> None:
    values = {**WELL, "candidate_requests": 3, "candidate_failed": 1.0}
    watcher = PrometheusWatcher(serve_app(Prometheus(**values).app()), "asr")
    assert watcher.problems(STABLE, CANDIDATE) == []
    (said,) = watcher.verdict(STABLE, CANDIDATE)
    assert said == ("3 requests reached the candidate in 120 s, at least 20 are needed to judge it")


async def refuse(_request: Request) -> JSONResponse:
    return JSONResponse({"status": "error", "error": "parse error"}, 400)


def test_a_silent_or_refusing_server_is_an_error(serve_app: Serve, unused_tcp_port: int) -> None:
    silent = PrometheusWatcher(f"http://127.0.0.1:{unused_tcp_port}", "asr")
    with pytest.raises(RolloutError, match="Prometheus does not answer"):
        silent.problems(STABLE, CANDIDATE)
    refusing = serve_app(Starlette(routes=[Route("/api/v1/query", refuse)]))
    with pytest.raises(RolloutError, match=r"Prometheus refuses .*parse error"):
        PrometheusWatcher(refusing, "asr").problems(STABLE, CANDIDATE)
    with pytest.raises(OptionError, match="prometheus: 'host:9090' does not start with"):
        PrometheusWatcher("host:9090", "asr")
    with pytest.raises(OptionError, match="is no label value"):
        PrometheusWatcher("http://host", "asr").requests_query('x"} or vector(1)')
