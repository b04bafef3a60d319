"""manifests/kind/up.sh and the README's first step, read against the installers of that KServe."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.manifests import kserve_versions
from tests.manifests.conftest import needs_kustomize
from tests.manifests.objects import MANIFESTS, ROOT, build, of_kind, predictors

SCRIPT = (MANIFESTS / "kind" / "up.sh").read_text()
README = (MANIFESTS / "README.md").read_text()
[VERSION] = re.findall(r"KSERVE_VERSION:-v([\d.]+)\}", SCRIPT)


@pytest.fixture(scope="module")
def release() -> Path:
    found = kserve_versions.source(VERSION)
    if isinstance(found, str):
        pytest.skip(found)
    return found / "install" / f"v{VERSION}"


def versions(text: str) -> dict[str, str]:
    """NAME_VERSION=value lines."""
    return dict(re.findall(r"^([A-Z_]+)_VERSION=v?([\w.]+)$", text, re.MULTILINE))


def test_the_installers_are_part_of_the_release(release: Path) -> None:
    named = set(re.findall(r"kserve-\w+-mode-full-install-with-manifests\.sh", SCRIPT + README))
    assert len(named) == 2
    assert f"v{VERSION}/install/v{VERSION}/keda-dependency-install.sh" in README
    named.add("keda-dependency-install.sh")
    assert [name for name in named if not (release / name).is_file()] == []


def test_the_readme_names_the_versions_that_it_brings(release: Path) -> None:
    brought = versions((release / "kserve-knative-mode-full-install-with-manifests.sh").read_text())
    assert brought["KSERVE"] == VERSION
    for what, name in (
        ("cert-manager", "CERT_MANAGER"),
        ("Istio", "ISTIO"),
        ("Knative", "KNATIVE_SERVING"),
        ("Envoy Gateway", "ENVOY_GATEWAY"),
    ):
        assert f"{what} {brought[name]}" in README, what
    assert brought["KEDA"].startswith("2.18")


def test_what_the_script_and_the_readme_address_is_installed(release: Path) -> None:
    """The ingress that is forwarded to, Knative's namespace and its operator's object."""
    text = (release / "kserve-knative-mode-full-install-with-manifests.sh").read_text()
    assert "helm install istio-ingressgateway istio/gateway" in text
    assert re.search(r'ISTIO_NAMESPACE="?\$\{ISTIO_NAMESPACE:-istio-system\}', text)
    assert re.search(r"kind: KnativeServing\nmetadata:\n +name: knative-serving", text)
    assert "service/istio-ingressgateway" in SCRIPT
    assert "--namespace istio-system" in SCRIPT


@needs_kustomize
def test_the_image_that_is_built_is_the_one_that_runs() -> None:
    [image] = re.findall(r"^IMAGE=(\S+)$", SCRIPT, re.MULTILINE)
    [version] = re.findall(r"^VERSION=(\S+)$", SCRIPT, re.MULTILINE)
    made = subprocess.run(
        ["make", "--dry-run", "image-cpu", f"PREDICTOR_IMAGE={image}", f"VERSION={version}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    [built] = re.findall(r"--tag (\S+)", made)
    objects = build(MANIFESTS / "overlays" / "dev-cpu")
    assert [each.container["image"] for each in predictors(objects)] == [built]
    [service] = of_kind(objects, "InferenceService")
    where = service["metadata"]["namespace"]
    assert f"--namespace {where}" in SCRIPT
