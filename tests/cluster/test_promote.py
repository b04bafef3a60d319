"""The `promote` command against a cluster: it promotes, it refuses, and it survives kill -9."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.answers import Caller, Client
from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.deployment import CLAIM, Deployment
from tests.cluster.service_api import Object
from tests.cluster.status import is_ready
from tests.manifests.objects import ROOT

# Before promote asked who answers, it took a status that flaps for settled, here as on a cluster.
pytest.importorskip("pipelines.rollout.asker")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
GOOD, POOR = "tiny", "tiny-early"  # by word error rate
RARE = ("hallucination", "repetition", "language-accuracy", "confidence", "calibration")
SET = ROOT / "tests" / "data" / "eval" / "manifest.jsonl"


class Promote:
    """`python -m pipelines promote` for one service, as often as it is started."""

    def __init__(self, target: Target, deployment: Deployment, weights: str, out: Path) -> None:
        self._command = [
            *(sys.executable, "-m", "pipelines", "promote", deployment.service.name),
            *("--namespace", deployment.namespace, "--kubeconfig", target.kubeconfig),
            *("--storage-uri", f"pvc://{CLAIM}/{weights}"),
            *(("--ingress", target.knative.address) if target.knative.address else ()),
            *("--data", str(SET), "--limit", "24", "--min-clips", "5", "--steps", "10,50,100"),
            *("--soak-s", "1", "--poll-s", "0.2", "--ready-timeout-s", "600"),
            # A run takes its own lease up, so one that was killed need not wait for its end.
            *("--run-id", "cluster-test", "--max-p95-latency-s", "120"),
            *("--p95-latency-ratio", "50", "--out", str(out), "--json"),
            *(f"--{each}-margin=none" for each in RARE),  # 24 recordings cannot tell these
        ]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def killed_when(self, deployment: Deployment, percent: int) -> None:
        """Starts it, and kills it as soon as the service asks for a share."""
        process = self.start()
        try:
            deployment.service.wait(f"{percent} % asked for", at(percent))
        finally:
            process.kill()
            process.communicate()

    def run(self) -> tuple[int, str]:
        """(exit code, everything said) of one run to its end."""
        process = self.start()
        said, errors = process.communicate(timeout=3000)
        return process.returncode, said + errors


def serve(deploy: Deploy, weights: str) -> tuple[Deployment, Client]:
    """Weights from a claim on Knative, always one pod."""

    def stay(service: Object) -> None:
        service["spec"]["predictor"]["minReplicas"] = 1

    deployment = deploy("production", weights=weights, change=stay)
    ready = deployment.service.wait("the service ready", is_ready)
    return deployment, deployment.client(ready["status"]["url"])


def test_a_better_candidate_is_promoted_under_load(
    deploy: Deploy, target: Target, record: Record, tmp_path: Path
) -> None:
    deployment, main = serve(deploy, POOR)
    before = main.identity()
    with Caller(main.transcribe) as caller:
        code, said = Promote(target, deployment, GOOD, tmp_path / "out").run()
        assert code == 0, said
        after = main.identity()
        main.until_all(after, 50)
    assert after != before
    assert caller.failures == []
    record["answered"] = caller.codes[200]


def test_a_worse_candidate_is_refused(deploy: Deploy, target: Target, tmp_path: Path) -> None:
    """And never has traffic: every answer meanwhile is the stable version's."""
    deployment, main = serve(deploy, GOOD)
    stable = main.identity()
    with Caller(main.transcribe) as caller:
        code, said = Promote(target, deployment, POOR, tmp_path / "out").run()
    assert code == 1, said
    assert "wer" in said.lower()
    main.until_all(stable, 50)
    assert caller.failures == []


def at(percent: int | None) -> Callable[[Object], bool]:
    """The spec asks for this share; None: the rollout is over."""

    def holds(service: Object) -> bool:
        predictor = service["spec"]["predictor"]
        is_candidate = predictor["model"]["storageUri"].endswith(f"/{GOOD}")
        return is_candidate and predictor.get("canaryTrafficPercent") == percent

    return holds


def test_killed_at_each_step_it_goes_on(
    deploy: Deploy, target: Target, record: Record, tmp_path: Path
) -> None:
    """kill -9 with the candidate dark, at 10 % and at 50 %; started again, it ends the rollout."""
    deployment, main = serve(deploy, POOR)
    before = main.identity()
    promote = Promote(target, deployment, GOOD, tmp_path / "out")
    with Caller(main.transcribe) as caller:
        for percent in (0, 10, 50):
            promote.killed_when(deployment, percent)
        code, said = promote.run()
        assert code == 0, said
        after = main.identity()
        main.until_all(after, 50)
    assert after != before
    assert caller.failures == []
    record["killed"] = 3
