"""The benchmark of the server's own work runs and measures every protocol, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_protocol_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "own.json"
    command = [
        sys.executable,
        "-m",
        "tests.bench.own_work",
        "--count=10",
        "--memory_after=20",
        "--clients=2",
    ]
    command += [f"--output={output}", "--vad=off", "--clients=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    memory = rows.pop("memory")["rss_mib_after"]
    assert set(rows) == {"V2 binary", "V2 JSON", "OpenAI", "gRPC"}
    assert all(row["p50_ms"] > 0 for row in rows.values())
    assert "20" in memory
