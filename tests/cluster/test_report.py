"""The table of what ran where is made from the results' files."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cluster import conftest, report
from tests.cluster.fake.api import FakeKubernetes
from tests.manifests.combinations import between


def test_the_readme_has_the_table_of_the_results() -> None:
    shown = between((report.FOLDER / "README.md").read_text(), report.BEGIN, report.END)
    assert shown == report.table(report.load()), "run: python -m tests.cluster.report"


def test_a_row_has_versions_and_figures(tmp_path: Path) -> None:
    figures = {"10 %": {"tiny": 180, "early": 20}, "tag_s": 1.25}
    about = {
        "versions": {"kserve": "0.20.0"},
        "machine": "2 cores",
        "commit": "a1",
        "ended": "passed",
        "load": [12, 9, 8],
    }
    (tmp_path / "test_a.json").write_text(json.dumps({**figures, **about}))
    lines = report.table(report.load(tmp_path)).splitlines()
    assert lines[0] == "A: 2 cores; kserve 0.20.0."
    assert lines[-1] == (
        "| test_a | passed | 10 % early 20, tiny 180; tag_s 1.2 | A, a1 | 12, 9, 8 |"
    )


def test_a_run_of_the_whole_is_kept_with_its_failures_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "RESULTS", tmp_path)
    with conftest.fake_target(FakeKubernetes()) as made:
        target = replace(made, is_fake=False)
    names = {"passed": ["a", "b"], "failed": ["c[edge]"], "error": ["c[edge]", "d"]}
    stats = {
        key: [SimpleNamespace(nodeid=f"tests/cluster/test_x.py::test_{name}") for name in listed]
        for key, listed in names.items()
    }
    conftest.keep_whole(stats, target, time.monotonic() - 120)
    kept = report.load(tmp_path)["whole-run"]
    assert kept["ended"] == "with failures"
    assert (kept["passed"], kept["skipped"], kept["minutes"]) == (2, 0, 2)
    assert kept["failed"] == ["test_c[edge]", "test_d"]
