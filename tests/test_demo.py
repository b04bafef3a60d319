"""`make demo` as a user runs it, and that it never talks to somebody else's server."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from predictor.demo import RECORDINGS


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "predictor.demo", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=800)


def test_the_demo_hears_what_was_said() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = run("--port", str(port))
    assert done.returncode == 0, done.stderr
    said = [line[11:] for line in done.stdout.splitlines() if line.startswith("    said")]
    heard = [line[11:] for line in done.stdout.splitlines() if line.startswith("    heard")]
    assert len(said) == len(list(RECORDINGS.glob("*.flac")))
    assert heard == said


def test_a_port_that_is_taken_stops_the_demo() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = ("--port", str(taken.getsockname()[1]))
        done, serving = run(*port), run(*port, "--serve")
    assert done.returncode != 0
    assert "is in use; choose another: make demo PORT=" in done.stderr
    assert "is in use; choose another: make serve PORT=" in serving.stderr
    assert "ready" not in done.stdout


@pytest.mark.parametrize("port", ["0", "65535", "99999", "-1", "web", "²"])
def test_a_port_that_is_none_is_said(port: str) -> None:
    command = [sys.executable, "-m", "predictor.demo", "--serve", f"--port={port}"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert f"argument --port: {port!r} must be a port from 1 to 65534" in run.stderr
    assert "Traceback" not in run.stderr
