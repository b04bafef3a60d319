"""The document's part on jobs against the server, by schemathesis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.api.conftest import Server
from tests.jobs.conftest import KEYS

CHAOS = Path(__file__).parents[1] / "chaos"


def test_schemathesis_finds_nothing(jobs_server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli"]
    command += ["--config-file", str(CHAOS / "schemathesis.toml")]
    command += ["run", f"{jobs_server.url}/openapi.json", "--no-color"]
    command += ["--header", f"Authorization: Bearer {KEYS[0]}"]
    command += ["--include-path-regex", "/v1/jobs", "--max-examples", "10", "--seed", "1"]
    command += ["--suppress-health-check", "all", "--continue-on-failure"]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.chaos.schema_hooks",
        "PYTHONPATH": str(CHAOS.parents[1]),
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800
    )
    assert "Selected: 5" in done.stdout
    assert done.returncode == 0, done.stdout[:7000] + done.stderr[-2000:]
