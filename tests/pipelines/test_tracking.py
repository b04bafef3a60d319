"""Reports as MLflow runs, read back by MLflow's own client; trends; titles."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.lib.evaluation import read_report
from pipelines.lib.tracking import track_report
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_cli import evaluate
from tests.pipelines.test_promote import CANDIDATE, STABLE, Site, answers, write_clips


def test_a_report_becomes_a_run(
    tmp_path: Path, serve_app: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_clips(tmp_path)
    url = serve_app(Service(answers(6), checkpoint="1.7B@main").app())
    assert evaluate(url, data, tmp_path / "out") == 0
    report = read_report(tmp_path / "out/report.json")
    assert report["title"] == "1.7B@main"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert track_report(report, tmp_path / "out") is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        mlflow = pytest.importorskip("mlflow")
        place = (tmp_path / "runs").as_uri()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        said = track_report(report, tmp_path / "out")
        assert said is not None
        assert said.startswith("MLflow run "), said
        client = mlflow.MlflowClient(place)
        run = client.get_run(said.removeprefix("MLflow run "))
        files = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert run.info.run_name == "1.7B@main"
    assert run.data.metrics["wer"] == pytest.approx(6 / 120)
    assert run.data.metrics["wer_English"] == run.data.metrics["wer"]
    assert run.data.params["service.identity.checkpoint"] == "1.7B@main"
    assert {"report.html", "report.json", "report.md"} <= files


def test_a_tracking_server_that_is_away_loses_nothing(
    tmp_path: Path, serve_app: Serve, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://nothing")
    data = write_clips(tmp_path)
    assert evaluate(serve_app(Service(answers(0)).app()), data, tmp_path / "out") == 0
    assert "did not take the run" in capsys.readouterr().err
    assert (tmp_path / "out/report.html").exists()


def test_a_promotion_becomes_three_runs(
    tmp_path: Path, serve_app: Serve, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow = pytest.importorskip("mlflow")
        place = (tmp_path / "runs").as_uri()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        site = Site(tmp_path, serve_app, "Knative", {STABLE: 2, CANDIDATE: 20})
        assert site.promote() == 1
        client = mlflow.MlflowClient(place)
        experiment = client.get_experiment_by_name("qwen3-asr")
        found = client.search_runs([experiment.experiment_id])
    assert capsys.readouterr().err.count("MLflow run ") == 3
    (decision,) = (run for run in found if "accepted" in run.data.metrics)
    assert decision.info.run_name.startswith("promote ")
    assert (decision.data.params["verdict"], decision.data.metrics["accepted"]) == ("refused", 0)
    rates = {run.data.metrics["wer"] for run in found if run is not decision}
    assert rates == {2 / 120, 20 / 120}


def test_trends(tmp_path: Path, serve_app: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_clips(tmp_path)
    for name, wrong in (("may", 12), ("june", 6)):
        url = serve_app(Service(answers(wrong)).app())
        assert evaluate(url, data, tmp_path / name, f"--title={name}") == 0
    capsys.readouterr()
    reports = [str(tmp_path / name / "report.json") for name in ("may", "june")]
    assert main(["trend", *reports, f"--out={tmp_path / 't'}"]) == 0
    first, second = capsys.readouterr().out.splitlines()[2:4]
    assert first.startswith("| may | 40 | 10.00 % |")
    assert second.startswith("| june | 40 | 5.00 % |")
    page = (tmp_path / "t/trend.html").read_text()
    assert "<svg" in page
    assert main(["trend", *reports, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["wer"]["rate"] == pytest.approx(0.05)
