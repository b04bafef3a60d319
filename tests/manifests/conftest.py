"""What the manifests must agree with, asked from the code: flags, environment, routes, series."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kserve.model_repository import ModelRepository
from prometheus_client import CollectorRegistry
from starlette.routing import Match

from predictor.api.app import AppOptions, create_app
from predictor.api.auth import KeyRing
from predictor.api.client_secrets import ClientSecrets
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.held_bytes import HeldBytes
from predictor.api.realtime import LiveDoor
from predictor.live.hub import LiveHub
from predictor.metrics import Metrics
from predictor.settings.fields import ENV_PREFIX, specs
from predictor.settings.read import SettingsError, load_settings
from tests.manifests.combinations import ADDED, together
from tests.manifests.objects import (
    MANIFESTS,
    SCHEMAS,
    Object,
    build,
    combine,
    extend,
    kustomize_command,
)

COMMAND, REASON = kustomize_command()
needs_kustomize = pytest.mark.skipif(COMMAND is None, reason=REASON)
needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"no schemas at {SCHEMAS.name}")

OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())

# Components as an overlay would list them. Each occurs in the modes that it is meant for, alone,
# and once among all that go together.
_EITHER = (
    "gpu",
    "monitoring",
    "high-availability",
    "network-policy",
    "model-cache",
    "modelcar",
    "image-volume",
    "long-requests",
    "live",
    "jobs",
    "admin-port",
    "promote-access",
    "tracing",
    "api-keys",
)
KNATIVE: list[tuple[str, ...]] = [
    (),
    ("gpu", "gpu-mig"),
    ("knative-autoscaling",),
    ("canary-knative",),
    ("custom-container",),
    ("custom-container", "api-keys", "tracing"),
    *((name,) for name in _EITHER),
    (
        *("gpu", "gpu-mig", "knative-autoscaling", "monitoring", "jobs", "high-availability"),
        *("network-policy", "model-cache", "tracing", "api-keys", "promote-access", "live"),
        *("long-requests", "admin-port"),
        "canary-knative",
    ),
]
STANDARD: list[tuple[str, ...]] = [
    ("standard-mode",),
    ("standard-mode", "hpa"),
    ("standard-mode", "monitoring", "keda"),
    ("standard-mode", "canary-standard"),
    ("standard-mode", "grpc"),
    *(("standard-mode", name) for name in _EITHER),
    (
        *("gpu", "standard-mode", "monitoring", "keda", "high-availability"),
        *("network-policy", "modelcar", "tracing", "grpc", "api-keys", "promote-access"),
        *("jobs", "live", "long-requests", "admin-port"),
        "canary-standard",
    ),
]


EXTENDED = [
    (overlay, components)
    for overlay, names in ADDED.items()
    for components in [*((name,) for name in names), together(names)]
]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], list[Object]]:
    """The objects of an overlay, a choice of components, or both; each is built once."""

    @functools.cache
    def once(chosen: Any) -> list[Object]:
        match chosen:
            case str():
                return build(MANIFESTS / chosen)
            case (str() as overlay, tuple() as components):
                return extend(tmp_path_factory.mktemp(overlay), overlay, components)
            case _:
                return combine(tmp_path_factory.mktemp("base"), chosen)

    return lambda chosen: copy.deepcopy(once(chosen))


@pytest.fixture(
    params=[*(f"overlays/{name}" for name in OVERLAYS), *KNATIVE, *STANDARD, *EXTENDED], ids=str
)
def objects(request: pytest.FixtureRequest, built: Callable[[Any], list[Object]]) -> list[Object]:
    """The objects of one overlay, or of the base or an overlay with one choice of components."""
    return built(request.param)


@pytest.fixture(scope="session")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The base with everything that asks Prometheus something."""
    if COMMAND is None:
        pytest.skip(REASON)
    folder = tmp_path_factory.mktemp("monitored")
    return combine(folder, ("standard-mode", "monitoring", "keda"))


@pytest.fixture(scope="session")
def knative(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Everything that goes together on Knative."""
    return combine(tmp_path_factory.mktemp("knative"), KNATIVE[-1])


@pytest.fixture(scope="session")
def standard(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Everything that goes together in Standard mode."""
    return combine(tmp_path_factory.mktemp("standard"), STANDARD[-1])


@pytest.fixture(scope="session")
def has_route() -> Callable[[str], bool]:
    """Whether GET on a path reaches a handler of the server's application."""
    models, metrics, keys = ModelRepository(), Metrics(CollectorRegistry()), KeyRing(())
    dataplane = AsrDataPlane(models, max_items=1)
    app = create_app(
        dataplane,
        ClosedRepository(models),
        metrics,
        keys,
        LiveDoor(dataplane, LiveHub(1, metrics), keys, ClientSecrets(keys), 1.0, None),
        HeldBytes(1),
        AppOptions(1, 1.0, 1.0, cors_origins=(), recognize_details=False),
    )

    def matches(path: str) -> bool:
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
        return any(route.matches(scope)[0] is Match.FULL for route in app.routes)

    return matches


@pytest.fixture(scope="session")
def known_flags() -> frozenset[str]:
    names = [name for name, (spec, _) in specs().items() if not spec.is_secret]
    return frozenset(f"--{name}" for name in [*names, "config_file"])


@pytest.fixture(scope="session")
def known_env() -> frozenset[str]:
    own = {ENV_PREFIX + name.upper() for name in specs()}
    return frozenset(own.union(*(spec.env for spec, _ in specs().values())))


def complaint(argv: list[str], environ: dict[str, str], config: str) -> str | None:
    """What the server says against its settings when it starts, if anything."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model-config.json"
        file.write_text(config)
        try:
            load_settings(argv, environ, file)
        except SettingsError as error:
            return str(error)
    return None
