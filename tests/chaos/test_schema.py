"""The OpenAPI document against the server, by schemathesis: all of its checks, in every phase."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TIMEOUT_S = None if "SOAK_S" in os.environ else 3600


def test_schemathesis_finds_nothing(server: Any, tmp_path: Path) -> None:
    is_soak = "SOAK_S" in os.environ
    command = [sys.executable, "-m", "schemathesis.cli"]
    command += ["--config-file", str(HERE / "schemathesis.toml")]
    command += ["run", f"{server.url}/openapi.json", "--no-color"]
    command += ["--max-examples", "200" if is_soak else "4", "--seed", "1"]
    command += ["--suppress-health-check", "all", "--continue-on-failure"]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.chaos.schema_hooks",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout[-60000:] + done.stderr[-2000:]


@pytest.mark.soak
def test_no_valid_request_is_rejected(server: Any, tmp_path: Path) -> None:
    """The check that schemathesis.toml leaves out, with what a schema cannot say put right."""
    (tmp_path / "empty.toml").write_text("")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "empty.toml"]
    command += ["run", f"{server.url}/openapi.json", "--no-color"]
    command += ["--max-examples", "200" if "SOAK_S" in os.environ else "4"]
    command += ["--seed", "1", "--suppress-health-check", "all", "--continue-on-failure"]
    command += ["--checks", "positive_data_acceptance"]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.chaos.schema_valid_hooks",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout[-60000:] + done.stderr[-2000:]
