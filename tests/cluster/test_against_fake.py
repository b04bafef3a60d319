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
    """All of them but four, for which a real cluster has something that the fake has not."""
    said = run("tests/cluster")
    assert int(re.findall(r"(\d+) passed", said)[0]) > 50, said
    skipped = re.findall(r"^SKIPPED \[1\] \S+: (?!could not import)(.*)$", said, re.MULTILINE)
    assert sorted(reason.split(":")[0] for reason in skipped) == [
        "KServe 0.20.0 reports 10 % and weights no route",
        "nothing enforces network policies here",
        "the fake has no live speech",
        "the fake has no live speech",
    ]


def test_a_canary_in_standard_mode_where_routes_follow() -> None:
    assert "skipped" not in run("--fake-kserve=0.21.0", "tests/cluster/test_standard.py")
