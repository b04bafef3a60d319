"""Our rules of Knative's webhook, and the webhook itself: Knative Serving 1.21's Go code.

The second part needs Go and the modules of tests/manifests/knative (from Go's module proxy, or
already in its cache); without them it is skipped and the rules in Python stand alone.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.manifests.conftest import COMMAND, REASON, needs_kustomize
from tests.manifests.knative_cases import ACCEPTED, CASES, Case
from tests.manifests.knative_rules import POD_FLAGS, VOLUME_FLAGS, WRITE_FLAG, duration_s, refusals
from tests.manifests.objects import MANIFESTS, Object, build, knative_service, predictors

pytestmark = needs_kustomize
GO_FOLDER = Path(__file__).parent / "knative"
FEATURES = yaml.safe_load((MANIFESTS / "cluster/knative/config-features.yaml").read_text())["data"]
DEFAULTS = yaml.safe_load((MANIFESTS / "cluster/knative/config-defaults.yaml").read_text())["data"]
Config = dict[str, dict[str, str]]
Webhook = Callable[[list[Object], Config], list[str]]


@pytest.fixture(scope="session")
def service() -> Object:
    """The Knative service of the smallest overlay, which needs no feature flag."""
    if COMMAND is None:
        pytest.skip(REASON)
    return knative_service(predictors(build(MANIFESTS / "overlays/dev-cpu"))[0])


@pytest.fixture(scope="session")
def webhook(tmp_path_factory: pytest.TempPathFactory) -> Webhook:
    """Knative's own defaulting and validation: services and its ConfigMaps in, messages out."""
    if shutil.which("go") is None:
        pytest.skip("no go on the PATH: Knative's own validation is not run")
    fetching = ["timeout", "300", "go", "mod", "download"]
    modules = subprocess.run(fetching, cwd=GO_FOLDER, capture_output=True, text=True)
    if modules.returncode:
        pytest.skip(f"Knative's modules cannot be had: {modules.stderr[-200:]}")
    binary = tmp_path_factory.mktemp("knative") / "webhook"
    built = ["go", "build", "-mod=readonly", "-o", str(binary), "."]
    subprocess.run(built, cwd=GO_FOLDER, check=True, capture_output=True, text=True)

    def ask(services: list[Object], settings: Config) -> list[str]:
        given = json.dumps({"services": services, "config": settings})
        said = subprocess.run([binary], input=given, capture_output=True, text=True, check=True)
        verdicts: list[str] = json.loads(said.stdout)
        return verdicts

    return ask


def changed(service: Object, case: Case) -> Object:
    broken = copy.deepcopy(service)
    case[0](broken)
    return broken


@pytest.mark.parametrize("case", CASES, ids=[says for _, says in CASES])
def test_refused(service: Object, case: Case) -> None:
    assert list(refusals(service)) == []
    said = list(refusals(changed(service, case)))
    assert any(case[1] in message for message in said), said


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(service: Object, case: Case) -> None:
    assert list(refusals(changed(service, case))) == []


def test_a_flag_lets_its_field_pass(service: Object) -> None:
    flags = {*POD_FLAGS.values(), *VOLUME_FLAGS.values(), WRITE_FLAG}
    for case in CASES:
        said = list(refusals(changed(service, case), flags))
        field = case[1].rsplit(".", 1)[-1]
        has_flag = field in POD_FLAGS or field in VOLUME_FLAGS or "write support" in case[1]
        assert bool(said) != has_flag, said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("1h1m1.5s", 3661.5), ("-2s", -2), ("0", 0), ("60", None), ("", None)],
)
def test_durations_are_gos(text: str, seconds: float | None) -> None:
    found = duration_s(text)
    assert (None if found is None else float(found)) == seconds


@pytest.mark.timeout(900)
def test_knative_says_the_same(service: Object, webhook: Webhook) -> None:
    """Every message of ours is in Knative's answer, which is empty only where ours is."""
    cases = [*CASES, *ACCEPTED]
    services = [changed(service, case) for case in cases]
    different = []
    for case, each, said in zip(cases, services, webhook(services, {}), strict=True):
        ours = list(refusals(each))
        if bool(ours) != bool(said) or any(message not in said for message in ours):
            different.append((case[1], ours, said))
    assert different == []


@pytest.mark.timeout(900)
def test_knative_accepts_what_is_built(objects: list[Object], webhook: Webhook) -> None:
    """With what manifests/cluster/knative sets, and nothing else."""
    services = [knative_service(each) for each in predictors(objects) if each.mode == "Knative"]
    settings = {"features": FEATURES, "defaults": DEFAULTS}
    assert [said for said in webhook(services, settings) if said] == []
