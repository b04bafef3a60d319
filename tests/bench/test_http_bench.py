"""The benchmark over HTTP runs, on a small shape and the CPU, and writes every row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


# Each server, front and client is a process that imports torch or numpy: 27 s of CPU in all.
@pytest.mark.parametrize(
    ("modes", "num_rows"),
    [("engine", 2), pytest.param("engine,fronts", 6, marks=pytest.mark.soak)],
)
def test_every_row_is_measured(tmp_path: Path, modes: str, num_rows: int) -> None:
    output = tmp_path / "http.json"
    command = [sys.executable, "-m", "tests.bench.http", "--shapes=tiny", "--device=cpu"]
    command += [
        f"--modes={modes}",
        "--fronts=2",
        "--warm_s=0.5",
        "--window_s=1",
        "--clients=2",
        f"--output={output}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == num_rows, rows
    for name, row in rows.items():
        assert "error" not in row, f"{name}: {row}"
        # On a busy machine the window may see none of them.
        assert row.get("num_all_answers", row["value"]) > 0, name
        assert name in done.stdout
