"""The benchmark of live streams runs, on a small shape and the CPU, and writes every row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


SOCKETS = ("sockets:0.5:2:2", "WebSockets, 2 fronts")


@pytest.mark.parametrize(
    "more", [(), pytest.param((SOCKETS,), marks=pytest.mark.soak)], ids=["engine", "sockets too"]
)
def test_every_row_is_measured(tmp_path: Path, more: tuple[tuple[str, str], ...]) -> None:
    output = tmp_path / "live.json"
    command = [sys.executable, "-m", "tests.bench.live", "--shape=tiny", "--device=cpu"]
    command += ["--rows", "engine:0.5:2:2", *(row for row, _ in more)]
    command += ["--window_s=4", "--warm_s=1"]
    command += ["--prepare_s=0", "--fronts=2", "--clients=2"]
    command += ["--max_num_seqs=4", f"--output={output}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert [row["through"] for row in rows] == ["engine", *(said for _, said in more)]
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"], row
        assert row["failures"] == 0, row
        if row["through"] != "engine":
            assert row["busy"].keys() == {"clients", "engine", "fronts"}, row
        assert row["busy"]["engine"] > 0, row
    assert 1.5 < rows[0]["heard_utterance_s"] < 3, rows[0]  # one may end on the window's edge
