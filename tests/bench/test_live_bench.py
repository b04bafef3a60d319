"""The benchmark of live streams runs, on a small shape and the CPU, and writes every row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_row_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "live.json"
    command = [sys.executable, "-m", "tests.bench.live", "--shape=tiny", "--device=cpu"]
    command += ["--rows", "engine:0.5:2:2", "sockets:0.5:2:2", "--window_s=4", "--warm_s=1"]
    command += ["--prepare_s=0", "--fronts=2", "--clients=2"]
    command += ["--max_num_seqs=4", f"--output={output}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert [row["through"] for row in rows] == ["engine", "WebSockets, 2 fronts"]
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"], row
        assert row["failures"] == 0, row
        assert row["busy"].keys() == {"clients", "engine", "fronts"}, row
        assert row["busy"]["engine"] > 0, row
    assert 1.5 < rows[0]["heard_utterance_s"] < 3, rows[0]  # one may end on the window's edge
