"""Every notebook runs from top to bottom against real predictors, and is kept without outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from pipelines.local_service import LocalService
from tests.pipelines.conftest import AppServer
from tests.pipelines.fake_cluster import NAMESPACE, FakeCluster, inference_service
from tests.pipelines.proxy import Proxy
from tests.pipelines.recordings import write_small_set
from tests.pipelines.test_promote import write_kubeconfig

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY, EARLY = "s3://models/tiny", "s3://models/tiny-early"
MAX_CODE_CELLS = 8


@pytest.fixture(scope="module")
def predictors() -> Iterator[dict[str, str]]:
    checkpoints = ROOT / "predictor" / "checkpoints"
    flags = ("--device=cpu",)
    with (
        LocalService(checkpoints / "tiny", flags=flags) as tiny,
        LocalService(checkpoints / "tiny-early", flags=flags) as early,
    ):
        yield {TINY: tiny.url, EARLY: early.url}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_set(tmp_path_factory.mktemp("set"), per_language=20, non_speech=4)


def run(name: str, monkeypatch: pytest.MonkeyPatch, **environment: object) -> str:
    """Execute a notebook in its folder; everything that its cells showed, as text."""
    for key, value in environment.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=240, resources=resources).execute()
    shown: list[str] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown += [output.get("text", ""), *map(str, output.get("data", {}).values())]
    return "\n".join(shown)


def test_transcribe(predictors: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run("01_transcribe.ipynb", monkeypatch, ASR_URL=predictors[TINY])
    recordings = json.loads((ROOT / "predictor/recordings/recordings.json").read_text())
    assert shown.count("<audio controls") >= len(recordings) > 0
    assert "English" in shown
    assert "Chinese" in shown
    assert "first text after" in shown


def test_evaluate(
    tmp_path: Path,
    predictors: dict[str, str],
    small_set: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = run(
        "02_evaluate.ipynb",
        monkeypatch,
        ASR_URL=predictors[EARLY],
        ASR_DATA=small_set,
        ASR_OUT=tmp_path / "out",
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert f"{report['summary']['errors']['rate'] * 100:.2f} %" in shown
    assert "<del>" in shown
    assert shown.count("<svg") >= 3


def test_canary(
    tmp_path: Path,
    predictors: dict[str, str],
    small_set: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = FakeCluster(inference_service("Knative", EARLY))
    api, gateway = AppServer(cluster.app()), AppServer(Proxy(cluster, predictors).app())
    try:
        shown = run(
            "03_canary.ipynb",
            monkeypatch,
            KUBECONFIG=write_kubeconfig(tmp_path / "kubeconfig", api.url),
            ASR_NAMESPACE=NAMESPACE,
            ASR_CANDIDATE_URI=TINY,
            ASR_INGRESS=gateway.url,
            ASR_DATA=small_set,
            ASR_OUT=tmp_path / "out",
            ASR_SOAK_S=0.05,
            ASR_LATENCY_RATIO=50,
        )
    finally:
        for server in (api, gateway):
            server.stop()
            server.join()
    assert "**Accepted**" in shown
    assert "<svg" in shown
    assert "promoted=True" in shown
    tiny_shares = [split.get(TINY, 0) for split in cluster.routed]
    assert sorted(set(tiny_shares)) == [0, 10, 50, 100]
    assert cluster.split() == {EARLY: 100}  # reverted by the last cell


def test_capacity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"1.7B offline 30 s": {"value": 6000.0, "unit": "RTFx"}}
    (tmp_path / "b.json").write_text(json.dumps({"environment": {"gpu": "H200"}, "rows": rows}))
    shown = run("04_capacity.ipynb", monkeypatch, ASR_BENCHMARK=tmp_path / "b.json")
    assert "6000 audio seconds a second" in shown
    assert "<svg" in shown
    assert "replicas at the peak: 2" in shown
    assert "scaleTarget (requests in flight for each replica): 150" in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_small_and_without_outputs(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= MAX_CODE_CELLS
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "def " not in cell.source


def test_there_is_one_test_for_each_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "01_transcribe.ipynb", "02_evaluate.ipynb", "03_canary.ipynb", "04_capacity.ipynb",
    ]  # fmt: skip
