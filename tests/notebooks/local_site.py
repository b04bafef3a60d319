"""What the notebooks need, all of it here: predictors, a cluster and the gateway before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.local_service import LocalService
from tests.pipelines.conftest import AppServer
from tests.pipelines.fake_cluster import FakeCluster
from tests.pipelines.fake_controller import NAMESPACE, inference_service
from tests.pipelines.proxy import Proxy
from tests.pipelines.recordings import write_small_set
from tests.pipelines.test_promote import FEW_LIMITS, write_kubeconfig

ROOT = Path(__file__).parents[2]
TINY, EARLY = "s3://models/tiny", "s3://models/tiny-early"


@dataclass(frozen=True)
class LocalSite:
    """Where the embedded checkpoints answer, by storage URI, and recordings to ask them about."""

    services: dict[str, str]  # URI of the weights -> URL
    data: Path  # a manifest


@dataclass(frozen=True)
class LocalCanary:
    """A cluster that serves `tiny-early`, and what a notebook must know to roll `tiny` out."""

    cluster: FakeCluster
    environment: dict[str, str]


@contextmanager
def local_site(folder: Path) -> Iterator[LocalSite]:
    """Both predictors, each a process, until the block ends; `folder` gets the recordings' list."""
    checkpoints = ROOT / "predictor" / "checkpoints"
    more = {TINY: (f"--aligner_dir={checkpoints / 'tiny-aligner'}",)}
    with ExitStack() as stack:
        urls = {
            uri: stack.enter_context(
                LocalService(
                    checkpoints / Path(uri).name, flags=("--device=cpu", *more.get(uri, ()))
                )
            ).url
            for uri in (TINY, EARLY)
        }
        yield LocalSite(urls, write_small_set(folder, per_language=20, non_speech=4))


@contextmanager
def local_canary(site: LocalSite, folder: Path) -> Iterator[LocalCanary]:
    """The cluster's API and its gateway over HTTP; soaks are short, and so is the patience."""
    cluster = FakeCluster(inference_service("Knative", EARLY))
    servers = [AppServer(cluster.app()), AppServer(Proxy(cluster, site.services).app())]
    api, gateway = servers
    environment = {
        "KUBECONFIG": str(write_kubeconfig(folder / "kubeconfig", api.url)),
        "ASR_NAMESPACE": NAMESPACE,
        "ASR_CANDIDATE_URI": TINY,
        "ASR_INGRESS": gateway.url,
        "ASR_DATA": str(site.data),
        "ASR_OUT": str(folder / "canary"),
        "ASR_SOAK_S": "0.05",
        "ASR_PROMOTE": "yes",
        # What twenty recordings a language can show; the candidate is twice as large, and shares
        # these CPUs.
        "ASR_LIMITS": json.dumps({**FEW_LIMITS, "wer_margin": 0.3}),
    }
    try:
        yield LocalCanary(cluster, environment)
    finally:
        for server in servers:
            server.stop()
        for server in servers:
            server.join()
