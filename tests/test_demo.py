"""`make demo` as a user runs it, and that it never talks to somebody else's server."""

from __future__ import annotations

import socket
import subprocess
import sys

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
