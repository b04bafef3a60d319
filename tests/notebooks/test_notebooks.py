"""Every notebook runs from top to bottom against real predictors, and is kept without outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pipelines.lib.capacity import read_benchmark
from tests.notebooks import render
from tests.notebooks.local_site import EARLY, ROOT, TINY, LocalSite, local_canary, local_site
from tests.pipelines.recordings import write_small_set

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BENCHMARK = ROOT / "tests" / "bench" / "results" / "http-h200.json"
MAX_CODE_CELLS = 8


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSite]:
    with local_site(tmp_path_factory.mktemp("site")) as found:
        yield found


def run(name: str, **environment: object) -> str:
    """Execute a notebook; everything that its cells showed, as text."""
    given = {k: str(v) for k, v in environment.items()}
    return text_of(render.execute(name, {**os.environ, **given}))


def text_of(notebook: Any) -> str:
    """Everything that the cells of an executed notebook showed."""
    shown: list[str] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown += [output.get("text", ""), *map(str, output.get("data", {}).values())]
    return "\n".join(shown)


def test_transcribe(site: LocalSite) -> None:
    shown = run("01_transcribe", ASR_URL=site.services[TINY])
    recordings = json.loads((ROOT / "predictor/recordings/recordings.json").read_text())
    assert shown.count("<audio controls") >= len(recordings) > 0
    assert "English" in shown
    assert "Chinese" in shown
    assert "first text after" in shown
    assert shown.count('role="button"') == len(recordings[0]["text"].split())  # words
    assert f"English: {recordings[0]['text']}" in shown  # live


def test_evaluate(tmp_path: Path, site: LocalSite) -> None:
    out = tmp_path / "out"
    few = write_small_set(tmp_path, per_language=6, non_speech=2)
    shown = run("02_evaluate", ASR_URL=site.services[EARLY], ASR_DATA=few, ASR_OUT=out)
    report = json.loads((out / "report.json").read_text())
    for errors in report["summary"]["by_metric"].values():
        assert f"{errors['rate'] * 100:.2f} %" in shown
    assert "<del>" in shown
    assert shown.count("<svg") >= 3


def test_canary(tmp_path: Path, site: LocalSite) -> None:
    with local_canary(site, tmp_path) as canary:
        shown = run("03_canary", **canary.environment)
    cluster = canary.cluster
    assert "**Accepted**" in shown
    assert "<svg" in shown
    assert "promoted=True" in shown
    assert "crash" not in shown  # pods that start are no failure
    tiny_shares = [split.get(TINY, 0) for split in cluster.routed]
    assert sorted(set(tiny_shares)) == [0, 10, 50, 100]
    assert cluster.split() == {EARLY: 100}  # reverted by the last cell


def test_capacity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the benchmark that is kept beside it, and nothing set; and as the page that
    `make notebooks` writes."""
    monkeypatch.delenv("ASR_BENCHMARK", raising=False)
    notebook = render.execute("04_capacity", dict(os.environ))
    shown = text_of(notebook)
    rtfx = read_benchmark(BENCHMARK, mean_duration_s=10).rtfx
    peak_audio_s = 50_000 / (0.55 * 24)  # a second at the peak hour: the mean is 55 % of it
    assert f"{rtfx:.0f} audio seconds a second" in shown
    assert "NVIDIA H200" in shown
    assert "256 x 10 s" in shown
    assert "<svg" in shown
    assert f"replicas at the peak: {-(-peak_audio_s // (rtfx / 2)):.0f}\n" in shown
    in_flight = round(rtfx / 2 / 10 * 0.5)
    assert f"(requests in flight for each replica): {in_flight}\n" in shown
    page = render.as_html(notebook)
    assert "data:image/svg+xml" in page
    assert "replicas at the peak" in page
    with pytest.raises(SystemExit):
        render.main(["--out", str(tmp_path), "05_nothing"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_small_and_without_outputs(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= MAX_CODE_CELLS
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "\ndef " not in f"\n{cell.source}"  # a coroutine may speak and listen at once


def test_there_is_one_test_for_each_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "01_transcribe.ipynb", "02_evaluate.ipynb", "03_canary.ipynb", "04_capacity.ipynb",
    ]  # fmt: skip
