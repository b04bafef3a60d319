"""The cluster tests' own logic in every run: the same files against the fake API."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.manifests.conftest import needs_kustomize
from tests.manifests.objects import ROOT

pytestmark = [needs_kustomize, pytest.mark.timeout(1200)]


def run(*arguments: str) -> str:
    """What pytest says about the cluster tests against the fake; they must all pass."""
    wanted = [sys.executable, "-m", "pytest", "-m", "cluster", "--against-fake", "-q", "-rs"]
    done = subprocess.run(
        [*wanted, "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "KUBECONFIG"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_cluster_tests_run_against_the_fake() -> None:
    """All of them but those about KServe 0.21 and gRPC, and what tests/pipelines tries in less
    time: the death of a rollout at each step, a worse candidate, routes that do not follow."""
    # Each component is built with dev-cpu by test_combinations too; one deploys as all do.
    fewer = "not (starts_and_answers and not tracing) and not refused"
    fewer += " and not killed_at_each_step and not routes_that_do_not_follow"
    said = run("tests/cluster", "-k", fewer)
    assert int(re.findall(r"(\d+) passed", said)[0]) > 75, said
    skipped = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", said, re.MULTILINE)
    assert {*skipped} == {
        "KServe 0.20.0 weights no route",
        "KServe 0.20.0 weights no route in Standard mode",
        "the fake speaks no gRPC",
    }


def test_standard_mode_where_routes_follow() -> None:
    """KServe 0.21: canaries, `promote`, its way back and the death of that. kill -9 at each step is
    tried on Knative above: what is after it is the same code, and a run takes seconds."""
    files = ("tests/cluster/test_standard.py", "tests/cluster/test_promote.py")
    wanted = ("-k", "canary or (Standard and taken_back)")
    assert "skipped" not in run("--fake-kserve=0.21.0", *wanted, *files)
