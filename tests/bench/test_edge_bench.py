"""The edge benchmark itself runs, on a small shape, and writes a row for each engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.edge import PRECISIONS
from tests.bench.environment import ROOT


@pytest.mark.parametrize(
    "precisions",
    [("int8",), pytest.param(tuple(PRECISIONS), marks=pytest.mark.soak)],
    ids=",".join,
)
def test_every_precision_is_measured(tmp_path: Path, precisions: tuple[str, ...]) -> None:
    output = tmp_path / "edge.json"
    command = [sys.executable, "-m", "tests.bench.edge", "--shape", "tiny", "--repeats", "1"]
    command += ["--threads", "1", "--rows", "engine", "--precisions", ",".join(precisions)]
    command += ["--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["environment"]["vnni"] in (True, False)
    assert set(result["rows"]) == {f"tiny {precision}, 1 thread" for precision in precisions}
    for name, row in result["rows"].items():
        assert row["num_tokens"] == 35, name
        assert 0 < row["first_token_s"] <= row["last_token_s"], name
        assert row["rtf"] == pytest.approx(row["last_token_s"] / 10, rel=1e-3), name
        assert row["rss_imports_mib"] < row["rss_loaded_mib"] <= row["rss_peak_mib"], name
