"""The benchmark of the start itself runs, on a small shape and the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_start_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "start.json"
    command = [sys.executable, "-m", "tests.bench.start", "--shapes", "tiny", "--kinds", "warm"]
    command += ["--repeats", "1", "--output", str(output), "--", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["environment"]["torch"]
    row = result["rows"]["tiny start, warm"]
    assert 0 < row["listening_s"] < row["ready_s"] < row["first_transcript_s"] == row["value"]
    stages = row["stages_s"]
    assert stages["settings"] < stages["listening"] < stages["ready"]
    assert "tiny start, warm" in done.stdout
