"""Every combination that the README offers, asked of the API server and all webhooks (dry run)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import Target
from tests.cluster.deployment import Request, built
from tests.cluster.service_api import Missing
from tests.manifests.conftest import EXTENDED, OVERLAYS
from tests.manifests.objects import knative_service, predictors

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def namespace(target: Target) -> Iterator[str]:
    """A namespace that stays empty: a dry run needs one to be there."""
    name = f"asr-{secrets.token_hex(3)}"
    target.cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
    yield name
    target.cluster.delete_namespace(name)


@pytest.mark.parametrize(
    ("overlay", "components"), [*((name, ()) for name in OVERLAYS), *EXTENDED], ids=str
)
def test_the_cluster_accepts(
    overlay: str, components: tuple[str, ...], target: Target, namespace: str, tmp_path: Path
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
    if lacking:
        pytest.skip(f"accepted, but for kinds that this cluster lacks: {sorted(lacking)}")
