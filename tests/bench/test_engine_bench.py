"""The benchmark itself runs, on a small shape and the CPU, and writes every row."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.bench import small_card

ROOT = Path(__file__).parents[2]
ROWS = "mixed,one,agreement,parts,decode steps,steady,plain"


def test_every_row_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "engine.json"
    command = [sys.executable, "-m", "tests.bench.engine", "--shapes", "tiny", "--device", "cpu"]
    command += ["--budget_s", "60", "--rows", ROWS, "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["environment"]["torch"]
    assert len(result["rows"]) >= 8
    for name, row in result["rows"].items():
        assert "error" not in row, f"{name}: {row}"
        assert row["value"] > 0, name
        assert name.split()[1] in done.stdout
    # The plain runner and the fast one are the same model: every token is the same.
    assert result["rows"]["tiny agreement"]["value"] == 1.0


def test_small_card_counts_what_runs_together() -> None:
    arguments = argparse.Namespace(
        shape="tiny", device="cpu", card_mib=0, max_num_seqs=2, num_clips=4, kv_precision="auto"
    )
    row = small_card.measure(arguments)["rows"]["tiny, auto, 1 s"]
    assert row["most_running"] == 2
    assert row["num_preempted"] == 0
