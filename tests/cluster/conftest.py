"""The cluster that the tests run on: a real one by KUBECONFIG, or the fake one (--against-fake)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from kubernetes import client, config, stream
from starlette.applications import Starlette

from tests.cluster.answers import Client, Entry
from tests.cluster.deployment import Deployment, Request, built, claim, put, wait_for_job
from tests.cluster.fake.api import FakeKubernetes
from tests.cluster.inside import port_forwards, proxy
from tests.cluster.service_api import Cluster, Service
from tests.manifests.objects import kustomize_command

RESULTS = Path(__file__).parent / "results"
IMAGE = "dev.local/qwen3-asr/predictor:0.1.0-cpu"
# Deployment, namespace, what the results call it.
WAYS_IN = (
    ("net-kourier-controller", "knative-serving", "net-kourier"),
    ("envoy-gateway", "envoy-gateway-system", "envoy-gateway"),
    ("istiod", "istio-system", "istio"),
)
Deploy = Callable[..., Deployment]
Record = dict[str, Any]
_ENDED = pytest.StashKey[str]()
_BEGUN = pytest.StashKey[tuple["Target", float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--against-fake", action="store_true", help="cluster tests against the fake API"
    )
    parser.addoption("--fake-kserve", default="0.20.0", help="KServe's version that it plays")


@dataclass(frozen=True)
class Target:
    """A cluster and the ways in."""

    cluster: Cluster
    knative: Entry
    standard: Entry
    image: str
    versions: dict[str, str]
    run_in: Callable[[str, str, list[str]], str]  # namespace, pod, command -> its output
    kubeconfig: str
    inside: Callable[[], AbstractContextManager[Entry]]  # a way in that knows Services' names too
    is_fake: bool = False

    @property
    def kserve(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.versions["kserve"].split(".")[:2])


@contextlib.contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """An application on a free port, as its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    started = threading.Event()
    startup = server.startup

    async def told(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = told  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def fake_target(fake: FakeKubernetes) -> Iterator[Target]:
    with serving(fake.api()) as api, serving(fake.ingress()) as ingress:
        settings = client.Configuration(host=api)
        cluster = Cluster(client.ApiClient(settings))
        versions = {"kserve": fake.kserve, "knative": "1.21.1", "kubernetes": "v1.34.4"}
        entry = Entry(ingress)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as kubeconfig:
            yaml.safe_dump(kubeconfig_of(api), kubeconfig)
            kubeconfig.flush()
            yield Target(
                *(cluster, entry, entry, IMAGE, versions, fake.run_in, kubeconfig.name),
                inside=lambda: contextlib.nullcontext(entry),
                is_fake=True,
            )


def kubeconfig_of(address: str) -> Record:
    context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": address}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [context],
        "current-context": "fake",
    }


def real_target() -> Target:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set: there is no cluster to try this on")
    api = config.new_client_from_config()
    cluster = Cluster(api)
    groups = {group.name for group in client.ApisApi(api).get_api_versions().groups}
    if "serving.kserve.io" not in groups:
        pytest.skip("the cluster has no serving.kserve.io")
    versions = {"kubernetes": client.VersionApi(api).get_code().git_version}
    apps = client.AppsV1Api(api)
    versions["kserve"] = _version(apps, "kserve-controller-manager", "kserve")
    if "serving.knative.dev" in groups:
        versions["knative"] = _version(apps, "controller", "knative-serving")
    versions |= _other_versions(cluster.core, apps)

    def run_in(namespace: str, pod: str, command: list[str]) -> str:
        session = stream.stream(
            cluster.core.connect_get_namespaced_pod_exec,
            pod,
            namespace,
            container="kserve-container",
            command=command,
            stderr=True,
            stdin=False,
            stdout=True,
            tty=False,
            _preload_content=False,  # else the client leaves its socket open
        )
        with contextlib.closing(session):
            session.run_forever(timeout=60)
            said: str = session.read_all()
        session.sock.shutdown()
        return said

    gateway = Entry(os.environ.get("QWEN3_ASR_GATEWAY", os.environ.get("QWEN3_ASR_ENTRY")))

    @contextlib.contextmanager
    def inside() -> Iterator[Entry]:
        if gateway.address is None:
            pytest.skip("QWEN3_ASR_GATEWAY is not set: promote needs one address for everything")
        with (
            port_forwards(os.environ["KUBECONFIG"]) as forward,
            serving(proxy(gateway, forward)) as address,
        ):
            yield Entry(address)

    return Target(
        cluster,
        Entry(os.environ.get("QWEN3_ASR_ENTRY")),
        gateway,
        os.environ.get("QWEN3_ASR_IMAGE", IMAGE),
        versions,
        run_in,
        os.environ["KUBECONFIG"],
        inside,
    )


def _version(apps: client.AppsV1Api, name: str, namespace: str) -> str:
    """A controller's version: by its label, or its image's tag."""
    found = apps.read_namespaced_deployment(name, namespace)
    labelled = (found.metadata.labels or {}).get("app.kubernetes.io/version")
    tag = found.spec.template.spec.containers[0].image.rsplit(":", 1)[-1]
    return str(labelled or tag).removeprefix("v")


def _other_versions(core: client.CoreV1Api, apps: client.AppsV1Api) -> dict[str, str]:
    """The nodes' programs, and the ways in that this cluster has."""
    node = core.list_node().items[0]
    about, named = node.status.node_info, "dev.local/"  # labels of node.sh
    found = {"kernel": about.kernel_version, "kubelet": about.kubelet_version}
    labels = (node.metadata.labels or {}).items()
    found |= {key.removeprefix(named): each for key, each in labels if key.startswith(named)}
    runtime, _, version = about.container_runtime_version.partition("://")
    found[runtime] = version
    for name, namespace, title in WAYS_IN:
        try:
            found[title] = _version(apps, name, namespace)
        except client.ApiException as error:
            if error.status != 404:
                raise
    return found


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    command, reason = kustomize_command()
    if command is None:
        pytest.skip(reason)
    if request.config.getoption("--against-fake", default=False):
        version = request.config.getoption("--fake-kserve")
        with fake_target(FakeKubernetes(version)) as made:
            yield made
    else:
        made = real_target()
        request.config.stash[_BEGUN] = made, time.monotonic()
        yield made


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    # Certificates of a test cluster are its own.
    with httpx.Client(timeout=300, verify=False) as session:
        yield session


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers how a test's own part ended, for its figures."""
    report = yield
    if report.when == "call":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        item.stash[_ENDED] = reason.replace("Skipped", "skipped") or report.outcome
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """What was not tried, loudly: a skip is no pass, though both end with 0."""
    skipped = [
        f"{report.nodeid.rsplit('/', 1)[-1]}: {report.longrepr[2]}"
        for report in terminalreporter.stats.get("skipped", [])
        if report.nodeid.startswith("tests/cluster/") and isinstance(report.longrepr, tuple)
    ]
    if skipped:
        terminalreporter.section("NOT TRIED on this cluster", bold=True, yellow=True)
        for line in skipped:
            terminalreporter.line(line)
    options = terminalreporter.config.option
    asked = [Path(each).resolve() for each in options.file_or_dir]
    is_whole = asked == [RESULTS.parent] and not (options.keyword or options.maxfail)
    is_at_its_end = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if is_whole and is_at_its_end and _BEGUN in terminalreporter.config.stash:
        keep_whole(terminalreporter.stats, *terminalreporter.config.stash[_BEGUN])


def keep_whole(stats: dict[str, list[Any]], target: Target, begun: float) -> None:
    """How a run of the whole on a real cluster ended, its failures by name."""
    failed = sorted({each.nodeid for key in ("failed", "error") for each in stats.get(key, [])})
    figures: Record = {key: len(stats.get(key, [])) for key in ("passed", "skipped")}
    figures["minutes"] = round((time.monotonic() - begun) / 60)
    figures["failed"] = [each.rpartition("::")[2] for each in failed]
    keep(target, "whole-run", figures, "with failures" if failed else "passed")


def machine() -> str:
    """Where the tests run: the node too, where node.sh made it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB"


@pytest.fixture
def record(request: pytest.FixtureRequest, target: Target) -> Iterator[Record]:
    """Figures of a test; they, how it ended and all versions become a file in results.

    A test that failed leaves none: its figures say nothing.
    """
    figures: Record = {}
    yield figures
    module = request.node.path.stem.removeprefix("test_")
    name = f"{module}-{request.node.name.removeprefix('test_')}"
    name = name.replace("/", "-").replace("[", "-").rstrip("]")
    keep(target, name, figures, request.node.stash.get(_ENDED, "failed"))


def keep(target: Target, name: str, figures: Record, ended: str) -> None:
    """Writes figures, versions and the machine's load into results."""
    if target.is_fake or ended == "failed":
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    load = [round(each) for each in os.getloadavg()]  # of 1, 5 and 15 minutes
    about = {"ended": ended, "machine": machine(), "commit": commit.stdout.strip(), "load": load}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"versions": target.versions, **figures, **about}, indent=2, sort_keys=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")


@pytest.fixture
def deploy(target: Target, http: httpx.Client, tmp_path: Path) -> Iterator[Deploy]:
    """Puts overlays into namespaces of their own, and takes them away after the test."""
    made: list[str] = []

    def put_up(*args: Any, **kwargs: Any) -> Deployment:
        wanted = Request(*args, **kwargs)
        namespace = f"asr-{secrets.token_hex(3)}"
        folder = tmp_path / namespace
        folder.mkdir()
        objects = built(wanted, namespace, target.image, folder)
        made.append(namespace)
        if wanted.is_from_claim:
            space = [each for each in objects if each["kind"] == "Namespace"]
            put(target.cluster, [*space, *claim(namespace, target.image)])
            assert wait_for_job(target.cluster, namespace, "checkpoints"), "claim not filled"
        missing = put(target.cluster, objects)
        entry = target.standard if "standard" in wanted.overlay else target.knative
        entry = target.standard if wanted.overlay == "edge" else entry
        service = Service(target.cluster, namespace)
        return Deployment(service, objects, missing, lambda url: Client(http, entry, url))

    yield put_up
    for namespace in made:
        target.cluster.delete_namespace(namespace)
