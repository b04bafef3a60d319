"""The `promote` command against a cluster, in both modes: it promotes, it refuses, it takes a
promotion back, and it survives kill -9 at each step."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.cluster.answers import Caller, Client, Entry
from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.deployment import CLAIM, Deployment
from tests.cluster.service_api import Object, watched
from tests.cluster.status import is_ready
from tests.cluster.weights import following
from tests.manifests.objects import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
GOOD, POOR = "tiny", "tiny-early"  # by word error rate
RARE = ("hallucination", "repetition", "language-accuracy", "confidence", "calibration")
ENOUGH = "96"  # of 24 the gate said that 51 would decide between these two
SET = ROOT / "tests" / "data" / "eval" / "manifest.jsonl"
OVERLAYS = {"Knative": "production", "Standard": "production-standard"}
STEPS = [("dark", 0), ("canary", 10), ("canary", 50), ("canary", 100), ("promoted", 100)]
both_modes = pytest.mark.parametrize("mode", sorted(OVERLAYS))


class Rollout:
    """`python -m pipelines promote` and `rollback` for one service, as often as started."""

    def __init__(
        self, target: Target, deployment: Deployment, entry: Entry, weights: str, out: Path
    ) -> None:
        self._deployment = deployment
        common = [
            *(deployment.service.name, "--namespace", deployment.namespace),
            *("--kubeconfig", target.kubeconfig, "--poll-s", "0.2", "--soak-s", "1"),
            # A run takes its own lease up, so one that was killed need not wait for its end.
            *("--ready-timeout-s", "600", "--run-id", "cluster-test", "--json"),
        ]
        self._promote = [
            *("promote", *common, "--storage-uri", f"pvc://{CLAIM}/{weights}"),
            *(("--ingress", entry.address) if entry.address else ()),
            *("--data", str(SET), "--limit", "24" if target.is_fake else ENOUGH),
            *("--min-clips", "5", "--steps", "10,50,100"),
            *("--max-p95-latency-s", "120", "--p95-latency-ratio", "50", "--out", str(out)),
            *(f"--{each}-margin=none" for each in RARE),  # so few recordings cannot tell these
            *(("--split-samples", "40") if target.is_fake else ()),  # seconds of make test
        ]
        self._rollback = ["rollback", *common]

    def promote(self) -> tuple[int, str]:
        """(exit code, everything said) of one run to its end."""
        return _to_the_end(_start(self._promote))

    def rollback(self) -> tuple[int, str]:
        return _to_the_end(_start(self._rollback))

    def killed_when(self, phase: str, percent: int, command: str = "promote") -> None:
        """Starts a command, and kills it as soon as it has written a step down."""
        process = _start(self._promote if command == "promote" else self._rollback)
        try:
            self._wait(phase, percent)
        finally:
            process.kill()
            said = "".join(process.communicate())
        assert process.returncode in (-9, 0), said

    def _wait(self, phase: str, percent: int) -> None:
        service = self._deployment.service
        events = watched(
            service.cluster.core.list_namespaced_config_map,
            service.namespace,
            field_selector=f"metadata.name={service.name}-rollout",
            timeout_seconds=900,
        )
        for event in events:
            state = json.loads(event["object"].data["state.json"])
            if (state["phase"], state["percent"]) == (phase, percent):
                return
        raise TimeoutError(f"the rollout has not come to {phase} {percent} %")


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _to_the_end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        said, errors = process.communicate(timeout=1200)
    finally:
        process.kill()  # or it would go on beside the next test
    return process.returncode, said + errors


@pytest.fixture
def entry(mode: str, target: Target) -> Iterator[Entry]:
    """The way in of `promote`: in Standard mode it asks Services that no route leads to."""
    if mode == "Knative":
        yield target.knative
    else:
        with target.inside() as inside:
            yield inside


def serve(deploy: Deploy, mode: str, weights: str) -> tuple[Deployment, Client]:
    """Weights from a claim, always one pod."""

    def stay(service: Object) -> None:
        service["spec"]["predictor"]["minReplicas"] = 1

    deployment = deploy(OVERLAYS[mode], weights=weights, change=stay)
    ready = deployment.service.wait("the service ready", is_ready)
    return deployment, deployment.client(ready["status"]["url"])


def split(
    mode: str, target: Target, deployment: Deployment, record: Record
) -> AbstractContextManager[object]:
    """Traffic that follows the percent."""
    return nullcontext() if mode == "Knative" else following(target, deployment, record)


@both_modes
def test_a_better_candidate_is_promoted_under_load_and_taken_back(
    mode: str, deploy: Deploy, target: Target, entry: Entry, record: Record, tmp_path: Path
) -> None:
    """The way back too: `rollback` of a promotion, killed on its way and started again."""
    deployment, main = serve(deploy, mode, POOR)
    before = main.identity()
    rollout = Rollout(target, deployment, entry, GOOD, tmp_path / "out")
    with split(mode, target, deployment, record), Caller(main.transcribe) as caller:
        code, said = rollout.promote()
        assert code == 0, said
        after = main.identity()
        record["promoted_s"] = round(main.until_all(after, 50), 1)
        assert after != before
        rollout.killed_when("reverting", 100, "rollback")
        code, said = rollout.rollback()
        assert code == 0, said
        record["back_s"] = round(main.until_all(before, 50), 1)
    assert caller.failures == []
    record["answered"] = caller.codes[200]


@both_modes
@pytest.mark.usefixtures("record")
def test_a_worse_candidate_is_refused(
    mode: str, deploy: Deploy, target: Target, entry: Entry, tmp_path: Path
) -> None:
    """And never has traffic: every answer meanwhile is the stable version's."""
    deployment, main = serve(deploy, mode, GOOD)
    stable = main.identity()
    with Caller(main.transcribe) as caller:
        code, said = Rollout(target, deployment, entry, POOR, tmp_path / "out").promote()
    assert code == 1, said
    assert "wer" in said.lower()
    main.until_all(stable, 50)
    assert caller.failures == []


@both_modes
def test_killed_at_each_step_it_goes_on(
    mode: str, deploy: Deploy, target: Target, entry: Entry, record: Record, tmp_path: Path
) -> None:
    """kill -9 once each step is written down, applied or not; started again, it goes on."""
    deployment, main = serve(deploy, mode, POOR)
    before = main.identity()
    rollout = Rollout(target, deployment, entry, GOOD, tmp_path / "out")
    steps = STEPS[1::3] if target.is_fake else STEPS  # a run takes seconds of make test
    with split(mode, target, deployment, record), Caller(main.transcribe) as caller:
        for phase, percent in steps:
            rollout.killed_when(phase, percent)
        code, said = rollout.promote()
        assert code == 0, said
        after = main.identity()
        main.until_all(after, 50)
    assert after != before
    assert caller.failures == []
    record["killed"] = len(steps)


@pytest.mark.parametrize("mode", ["Standard"])
@pytest.mark.usefixtures("record")
def test_routes_that_do_not_follow_are_noticed(
    mode: str, deploy: Deploy, target: Target, entry: Entry, tmp_path: Path
) -> None:
    """KServe 0.20.0: the status says 10 % and no answer is the candidate's: nothing is promoted."""
    if target.kserve >= (0, 21):
        pytest.skip(f"KServe {target.versions['kserve']} weights the route")
    deployment, main = serve(deploy, mode, POOR)
    stable = main.identity()
    code, said = Rollout(target, deployment, entry, GOOD, tmp_path / "out").promote()
    assert code == 1, said
    assert "the routes do not follow the status" in said
    main.until_all(stable, 50)
