"""The benchmark of memory after many requests asks in every way, and is answered as it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
def test_every_kind_of_request_is_answered(tmp_path: Path) -> None:
    output = tmp_path / "many.json"
    command = [sys.executable, "-m", "tests.bench.many", "--count=200", f"--output={output}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["outcomes"] == {"right": 200}
    assert result["pss_mib_after"]["200"] > 100
    assert "predictor.audio.worker" in result["by_module"]["200"]
