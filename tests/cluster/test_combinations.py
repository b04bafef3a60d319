"""Every combination that the README offers, asked of the API server and all webhooks (dry run)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import Target, keep
from tests.cluster.deployment import Request, built
from tests.cluster.service_api import Missing
from tests.manifests.conftest import EXTENDED, OVERLAYS
from tests.manifests.objects import knative_service, predictors

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SERVICE_ACCOUNT = "qwen3-asr"
COMBINATIONS = [*((name, ()) for name in OVERLAYS), *EXTENDED]


@pytest.fixture(scope="module")
def namespace(target: Target) -> Iterator[str]:
    """A namespace for dry runs, with the account that Knative's webhook asks for: it makes a pod of
    each service, as a dry run of its own."""
    name = f"asr-{secrets.token_hex(3)}"
    account = {"name": SERVICE_ACCOUNT, "namespace": name}
    target.cluster.apply(
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        ]
    )
    yield name
    target.cluster.delete_namespace(name)


@pytest.fixture(scope="module")
def accepted(target: Target) -> Iterator[list[str]]:
    """Those that were; their number is kept once all have been asked."""
    found: list[str] = []
    yield found
    if len(found) == len(COMBINATIONS):
        keep(target, "combinations-the_cluster_accepts", {"accepted": len(found)}, "passed")


@pytest.mark.parametrize(("overlay", "components"), COMBINATIONS, ids=str)
def test_the_cluster_accepts(
    overlay: str,
    components: tuple[str, ...],
    target: Target,
    namespace: str,
    accepted: list[str],
    tmp_path: Path,
) -> None:
    """As written, GPU and all; and, on Knative, the service that KServe will ask for."""
    objects = built(Request(overlay, components), namespace, target.image, tmp_path)
    lacking = set()
    for each in objects:
        try:
            target.cluster.apply([each], dry_run=True)
        except Missing:
            lacking.add(each["kind"])
    for predictor in predictors(objects):
        if predictor.mode == "Knative":
            service = knative_service(predictor)
            service["metadata"] |= {"namespace": namespace}
            target.cluster.create_dry(service)
    if not lacking:
        accepted.append(f"{overlay} {components}")
    else:
        pytest.skip(f"accepted, but for kinds that this cluster lacks: {sorted(lacking)}")
