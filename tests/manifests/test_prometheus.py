"""A real Prometheus scrapes a real predictor: panels, rules and the scaler find their series."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from pipelines.local_service import LocalService
from predictor.metrics import PROTOCOLS
from tests.manifests.callers import Callers
from tests.manifests.conftest import needs_kustomize
from tests.manifests.objects import ROOT, Object
from tests.manifests.prometheus import REVISION, Prometheus
from tests.manifests.queries import dashboards, panel_expressions, scaler_queries

pytestmark = [
    needs_kustomize,
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not on the PATH (Debian: prometheus)",
    ),
]
RECORDING = ROOT / "predictor" / "recordings" / "demo-en-1.flac"
HELD_S = 5  # of audio, so that a second recording of 3.2 s beside the first is refused
# What only a fault or many recordings give data to.
SILENT_RULES = {f"qwen3_asr:failed_ratio:rate{window}" for window in ("5m", "30m", "1h", "6h")}
SILENT_RULES |= {"qwen3_asr:confidence:avg30m"}


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    checkpoint = ROOT / "predictor" / "checkpoints" / "tiny"
    flags = ("--device=cpu", f"--max_held_audio_s={HELD_S}", "--native_histograms=true")
    with LocalService(checkpoint, flags=flags) as service:
        yield service


@pytest.fixture(scope="module")
def in_protobuf(
    service: LocalService, monitored: list[Object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """One that takes native histograms, beside the other."""
    folder, pods = tmp_path_factory.mktemp("native"), {REVISION: service.url}
    with Prometheus(monitored, pods, folder, features="native-histograms") as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(
    service: LocalService,
    in_protobuf: Prometheus,
    monitored: list[Object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    """After calls over all protocols, bad audio, and a full queue, each seen by two scrapes."""
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus(monitored, {REVISION: service.url}, folder) as running:
        callers = Callers(service)
        audio = RECORDING.read_bytes()
        for num_rounds in (1, 2):
            assert callers.each_once(audio) == dict.fromkeys(PROTOCOLS, 200)
            assert callers.protocols["v2"](b"no audio") == 400
            assert callers.live(audio) == "Remind me to call my sister at 7:30."
            callers.until_refused(audio)
            scraped = f'qwen3_asr_requests_total{{protocol="grpc"}} == {num_rounds}'
            running.wait(scraped, lambda asked=scraped: bool(running.query(asked)))  # type: ignore[misc]
        callers.close()
        recorded = "qwen3_asr:refused_ratio:rate5m"
        running.wait("recording rules", lambda: bool(running.query(recorded)))
        yield running


def seen(prometheus: Prometheus, expression: str) -> float:
    return sum(value for _, value in prometheus.query(expression))


@pytest.mark.parametrize("scraper", ["prometheus", "in_protobuf"])
def test_every_panel_has_data(
    scraper: str, prometheus: Prometheus, in_protobuf: Prometheus, monitored: list[Object]
) -> None:
    """Also where Prometheus takes native histograms and drops the classic ones beside them."""
    asked = {"prometheus": prometheus, "in_protobuf": in_protobuf}[scraper]
    queries = [query for _, board in dashboards(monitored) for query in panel_expressions(board)]
    assert len(queries) > 60
    for title, query in queries:  # some look at every 15 s only
        if "qwen3_asr_device_" in query:  # NVML's, where there is a GPU
            continue
        asked.wait(f"{title}: {query}", lambda query=query: bool(asked.query(query)))  # type: ignore[misc]


def test_every_rule_is_evaluated_without_error(
    prometheus: Prometheus, monitored: list[Object]
) -> None:
    rules = prometheus.rules()
    assert len(rules) == 26
    assert [rule for rule in rules if rule["health"] != "ok" or rule.get("lastError")] == []
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert {name for name in recorded if not prometheus.query(name)} <= SILENT_RULES
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []


def test_promtool_has_nothing_to_say_about_the_metrics(service: LocalService) -> None:
    """Names, units, types and help, by the linter of Prometheus."""
    text = httpx.get(service.url + "/metrics").text
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_scaler_gets_one_number(prometheus: Prometheus, monitored: list[Object]) -> None:
    [(_, query)] = scaler_queries(monitored)
    prometheus.wait("a scrape with nothing in flight", lambda: seen(prometheus, query) == 0)
    [(labels, value)] = prometheus.query(query)
    assert labels == {}
    assert value == 0  # everything was answered


def test_the_pod_monitor_names_the_revision(prometheus: Prometheus) -> None:
    [(labels, value)] = prometheus.query("qwen3_asr_model_info")
    assert value == 1
    assert (labels["namespace"], labels["revision"]) == ("qwen3-asr", REVISION)
    assert (labels["checkpoint"], labels["device"], labels["dtype"]) == ("tiny", "cpu", "float32")


def test_all_protocols_are_counted(prometheus: Prometheus) -> None:
    answered = {
        labels["protocol"]: value
        for labels, value in prometheus.query(
            "sum by (protocol) (qwen3_asr_requests_total{code='200'})"
        )
    }
    assert set(answered) == set(PROTOCOLS)
    for series in ("transcriptions_total", "request_seconds_count"):
        counted = prometheus.query(f"sum by (protocol) (qwen3_asr_{series})")
        assert {labels["protocol"] for labels, _ in counted} == set(PROTOCOLS), series
    assert seen(prometheus, "qwen3_asr_audio_rejected_seconds_total") >= 2 * 3.245
    assert seen(prometheus, "qwen3_asr_audio_capacity_seconds") == HELD_S
    accepted, transcribed = (
        seen(prometheus, f"qwen3_asr_audio_{name}_seconds_total")
        for name in ("accepted", "transcribed")
    )
    assert accepted >= transcribed > 10 * 3.245 - 0.01
