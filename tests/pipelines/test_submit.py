"""Submitting to Kubeflow Pipelines by its real client, to a server that writes down what came."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pipelines.cli import main
from pipelines.lib.evaluation import read_report
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_promote import NUM_CLIPS, answers, write_clips

API = "/apis/v2beta1"
README = Path(__file__).parents[2] / "pipelines" / "README.md"


@dataclass
class KubeflowApi:
    """The few routes that submitting touches."""

    posted: dict[str, dict[str, Any]] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(API + "/healthz", self.health),
                Route(API + "/experiments", self.experiments, methods=["GET", "POST"]),
                Route(API + "/experiments/{id}", self.experiment),
                Route(API + "/runs", self.runs, methods=["POST"]),
                Route(API + "/recurringruns", self.recurring_runs, methods=["POST"]),
            ]
        )

    async def health(self, _request: Request) -> JSONResponse:
        return JSONResponse({"multi_user": False})

    async def experiment(self, _request: Request) -> JSONResponse:
        return JSONResponse({"experiment_id": "e1", "display_name": "qwen3-asr"})

    async def experiments(self, request: Request) -> JSONResponse:
        if request.method == "GET":
            return JSONResponse({"experiments": []})
        self.posted["experiment"] = json.loads(await request.body())
        return JSONResponse({"experiment_id": "e1", "display_name": "qwen3-asr"})

    async def runs(self, request: Request) -> JSONResponse:
        self.posted["run"] = json.loads(await request.body())
        return JSONResponse({"run_id": "r1"})

    async def recurring_runs(self, request: Request) -> JSONResponse:
        self.posted["recurring"] = json.loads(await request.body())
        return JSONResponse({"recurring_run_id": "rr1"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_carries_pipeline_parameters_and_image(
    serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = KubeflowApi()
    url = serve_app(api.app())
    given = ["--set=url=http://asr.example.com", "--set=num_shards=3", "--image=example.com/p:1"]
    assert main(["submit", "evaluate", f"--kfp={url}", *given, "--json"]) == 0
    named = "evaluate http://asr.example.com"
    assert json.loads(capsys.readouterr().out) == {"run_id": "r1", "run_name": named}
    run = api.posted["run"]
    assert run["display_name"] == named
    assert run["experiment_id"] == "e1"
    assert run["runtime_config"]["parameters"] == {
        "url": "http://asr.example.com",
        "num_shards": 3,
    }
    spec = run["pipeline_spec"]["pipeline_spec"]
    images = {e["container"]["image"] for e in spec["deploymentSpec"]["executors"].values()}
    assert images == {"example.com/p:1"}
    assert "kubernetes" in run["pipeline_spec"]["platform_spec"]["platforms"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_schedule_is_a_recurring_run(
    serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    api = KubeflowApi()
    url = serve_app(api.app())
    given = ["--set=name=asr", "--cron=0 3 * * *", "--run-name=nightly", "--experiment=drift"]
    assert main(["submit", "scheduled", f"--kfp={url}", *given]) == 0
    said = capsys.readouterr().out
    assert "recurring_run_id: rr1" in said
    assert len(re.findall(r"20\d\d-\d\d-\d\d 03:00:00 UTC", said)) == 3  # the next three times
    recurring = api.posted["recurring"]
    # six fields, seconds first: five would be every hour at :03
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert recurring["display_name"] == "nightly 0 0 3 * * *"
    assert recurring["no_catchup"] is True
    assert recurring["max_concurrency"] == 1


def test_mistakes_never_reach_the_server(
    unused_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"--kfp=http://127.0.0.1:{unused_tcp_port}"
    assert main(["submit", "evaluate", url, "--set=url"]) == 2
    assert "set: 'url' is not NAME=VALUE" in capsys.readouterr().err
    assert main(["submit", "promote", url, "--set=name=asr"]) == 2
    assert "set: namespace, storage_uri must be given" in capsys.readouterr().err
    assert main(["submit", "scheduled", url, "--cron=3 * * *"]) == 2
    assert "cron: '3 * * *' has 4 fields" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_server_that_refuses_is_named(
    serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve_app(Starlette(routes=[Route(API + "/healthz", KubeflowApi().health)]))
    assert main(["submit", "evaluate", f"--kfp={url}", "--set=url=http://x"]) == 2
    assert f"error: Kubeflow Pipelines at {url}" in capsys.readouterr().err


def test_the_readmes_run_on_this_machine(
    tmp_path: Path, serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """By KFP's local runner, each step a process."""
    text = README.read_text(encoding="utf-8").replace("\\\n", " ")
    [line] = re.findall(r"^python -m pipelines (submit .*--local.*)$", text, re.MULTILINE)
    url = serve_app(Service(answers(4)).app())
    for shown, here in (
        ("out/kfp", str(tmp_path / "kfp")),
        ("http://localhost:8080", url),
        ("tests/data/eval/manifest.jsonl", str(write_clips(tmp_path))),
    ):
        assert shown in line
        line = line.replace(shown, here)
    assert main([*shlex.split(line), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"pipeline": "evaluate", "artifacts": str(tmp_path / "kfp")}
    (report,) = (tmp_path / "kfp").glob("*/score/report")
    assert read_report(report)["summary"]["errors"]["rate"] == 4 / (3 * NUM_CLIPS)


def test_a_step_that_fails_here_fails_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["submit", "evaluate", f"--local={tmp_path / 'kfp'}", "--set=url=http://localhost"]
    assert main([*command, f"--set=data={tmp_path / 'nothing'}"]) == 2
    said = capfd.readouterr().err
    assert "nothing: is no manifest and no known layout" in said  # the step's own log
    assert f"artifacts: {tmp_path / 'kfp'}" in said.splitlines()[-1]
    assert main([*command, "--set=what=x"]) == 2
    assert "set: 'what' is not one of" in capfd.readouterr().err
    assert main([*command, "--cron=0 3 * * *"]) == 2
    assert "cron: is for a server (--kfp)" in capfd.readouterr().err
