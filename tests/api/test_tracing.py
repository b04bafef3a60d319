"""Spans as OpenTelemetry's own exporter sends them, read with OpenTelemetry's own messages: one
request's tree for each protocol, with the environment that components/tracing sets."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import soundfile
import websockets.sync.client
import yaml
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from tests.api.conftest import RECORDINGS, Server, StartServer
from tests.manifests.prometheus import Prometheus

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.sdk") is None
    or importlib.util.find_spec("opentelemetry.exporter") is None,
    reason="the tracing extra is not installed: pip install '.[tracing]'",
)
COMPONENT = Path(__file__).parents[2] / "manifests" / "components" / "tracing" / "runtime.yaml"
CLIP = RECORDINGS / "demo-en-1.flac"
CALLER_SPAN = "b7ad6b7169203331"
V2_URL = "/v2/models/qwen3-asr/infer"


@dataclass(frozen=True)
class Seen:
    """A span that arrived."""

    name: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    start_ns: int
    end_ns: int
    links: tuple[str, ...]  # ids of spans
    is_error: bool


class Collector(ThreadingHTTPServer):
    """Takes what an OTLP collector would take over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.traces: dict[str, list[Seen]] = {}
        self.arrived = threading.Condition()

    def take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        request = ExportTraceServiceRequest.FromString(body)
        with self.arrived:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self.traces.setdefault(span.trace_id.hex(), []).append(_seen(span))
            self.arrived.notify_all()

    def trace(self, trace_id: str) -> list[Seen]:
        """The spans of a trace, once the caller's own child has ended: it ends last."""

        def is_whole() -> bool:
            spans = self.traces.get(trace_id, [])
            return any(span.parent_id == CALLER_SPAN for span in spans)

        with self.arrived:
            assert self.arrived.wait_for(is_whole, timeout=60), f"no trace {trace_id}"
            return list(self.traces[trace_id])


class CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        self.server.take(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _seen(span: Any) -> Seen:
    values = {each.key: _value(each.value) for each in span.attributes}
    return Seen(
        span.name,
        span.span_id.hex(),
        span.parent_span_id.hex(),
        values,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        tuple(link.span_id.hex() for link in span.links),
        span.status.code == 2,
    )


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(collector: Collector, start_server: StartServer) -> Iterator[Server]:
    """With the component's variables; its collector is here, and sends without waiting long."""
    added = [p["value"] for p in yaml.safe_load(COMPONENT.read_text()) if "/env/" in p["path"]]
    values = {each["name"]: each["value"] for each in added}
    assert values["OTEL_EXPORTER_OTLP_ENDPOINT"].startswith("http://")
    values["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_port}"
    values["OTEL_BSP_SCHEDULE_DELAY"] = "200"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        running = start_server("--native_histograms=true")
    yield running
    running.end()


def caller() -> tuple[str, dict[str, str]]:
    """A new trace's id, and the header that goes on with it."""
    trace_id = os.urandom(16).hex()
    return trace_id, {"traceparent": f"00-{trace_id}-{CALLER_SPAN}-01"}


def tree(spans: list[Seen]) -> dict[str, Any]:
    """{name: {child: …}} below the caller's span, without those that FastAPI makes inside."""
    ours = {"recording", "decode_audio", "piece", "queue", "prefill", "generate", "join"}
    ours |= {"words", "live_step"}
    by_id = {span.span_id: span for span in spans}

    def parent(span: Seen) -> str:
        above = span.parent_id
        while above in by_id and by_id[above].name not in ours and by_id[above].parent_id in by_id:
            above = by_id[above].parent_id
        return above

    def below(span_id: str) -> dict[str, Any]:
        return {s.name: below(s.span_id) for s in spans if s.name in ours and parent(s) == span_id}

    [root] = [span for span in spans if span.parent_id == CALLER_SPAN]
    return {root.name: below(root.span_id)}


PIECE = {"queue": {}, "prefill": {}, "generate": {}}
PARTS = {"decode_audio": {}, "piece": PIECE, "join": {}}


def test_v1(server: Server, collector: Collector) -> None:
    trace_id, headers = caller()
    url = server.url + "/v1/models/qwen3-asr:predict"
    headers["content-type"] = "audio/flac"
    assert httpx.post(url, content=CLIP.read_bytes(), headers=headers, timeout=60).is_success
    spans = collector.trace(trace_id)
    [tree_] = tree(spans).values()
    assert tree_ == {"recording": PARTS}
    by_name = {span.name: span for span in spans}
    order = [by_name[name] for name in ("queue", "prefill", "generate", "join")]
    assert all(a.end_ns <= b.start_ns + 1_000_000 for a, b in itertools.pairwise(order))
    assert all(span.start_ns <= span.end_ns for span in spans)
    assert by_name["prefill"].attributes["batch_size"] == 1
    assert by_name["generate"].attributes["tokens"] > 5


def test_v2_links_those_that_shared_a_step(server: Server, collector: Collector) -> None:
    trace_id, headers = caller()
    data = [base64.b64encode(CLIP.read_bytes()).decode()] * 4
    tensor = {"name": "audio", "datatype": "BYTES", "shape": [4], "data": data}
    answer = httpx.post(server.url + V2_URL, json={"inputs": [tensor]}, headers=headers, timeout=60)
    assert answer.is_success
    spans = collector.trace(trace_id)
    assert [span.name for span in spans].count("recording") == 4
    prefills = [span for span in spans if span.name == "prefill"]
    assert len(prefills) == 4
    steps: dict[int, list[Seen]] = {}
    for span in prefills:
        steps.setdefault(span.attributes["step"], []).append(span)
    for together in steps.values():
        assert {span.attributes["batch_size"] for span in together} == {len(together)}
        ids = {span.span_id for span in together}
        assert {link for span in together for link in span.links} < ids or len(together) == 1
        assert sum(len(span.links) for span in together) == len(together) * (len(together) - 1) / 2


@pytest.mark.parametrize("stream", ["false", "true"])
def test_openai(server: Server, collector: Collector, stream: str) -> None:
    trace_id, headers = caller()
    answer = httpx.post(
        server.url + "/v1/audio/transcriptions",
        files={"file": CLIP.read_bytes()},
        data={"model": "qwen3-asr", "stream": stream},
        headers=headers,
        timeout=60,
    )
    assert answer.is_success
    [tree_] = tree(collector.trace(trace_id)).values()
    assert tree_ == (PARTS if stream == "true" else {"recording": PARTS})


def infer(server: Server, headers: dict[str, str], *audio: bytes) -> pb.ModelInferResponse:
    """One call of KServe's own stub."""
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="audio",
        datatype="BYTES",
        shape=[len(audio)],
        contents=pb.InferTensorContents(bytes_contents=audio),
    )
    request = pb.ModelInferRequest(model_name="qwen3-asr", inputs=[tensor])
    with grpc.insecure_channel(server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(request, metadata=tuple(headers.items()), timeout=60)


def test_grpc(server: Server, collector: Collector) -> None:
    trace_id, headers = caller()
    infer(server, headers, CLIP.read_bytes())
    assert tree(collector.trace(trace_id)) == {
        "inference.GRPCInferenceService/ModelInfer": {"recording": PARTS}
    }


def test_a_failed_call_says_so(server: Server, collector: Collector) -> None:
    trace_id, headers = caller()
    with pytest.raises(grpc.RpcError):
        infer(server, headers)
    [root] = collector.trace(trace_id)
    assert root.is_error
    assert root.attributes["error.type"] == "invalid_input"


def test_live(server: Server, collector: Collector) -> None:
    trace_id, headers = caller()
    samples, rate = soundfile.read(CLIP, dtype="int16")
    url = server.url.replace("http", "ws") + f"/api/v1/live?rate={rate}"
    with websockets.sync.client.connect(url, additional_headers=headers) as socket:
        socket.send(samples.tobytes())
        socket.send(json.dumps({"type": "end"}))
        for _ in socket:
            pass
    spans = collector.trace(trace_id)
    kinds = [span.attributes["kind"] for span in spans if span.name == "live_step"]
    assert kinds.count("final") == 1


def test_the_log_line_has_the_trace_and_the_wait(server: Server) -> None:
    trace_id, headers = caller()
    headers |= {"content-type": "audio/flac", "x-request-id": "traced"}
    url = server.url + "/v1/models/qwen3-asr:predict"
    assert httpx.post(url, content=CLIP.read_bytes(), headers=headers, timeout=60).is_success
    [line] = server.wait_for_log("traced")
    assert line["trace_id"] == trace_id
    assert line["queue_s"] >= 0


OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TARGET: list[dict[str, Any]] = [
    {
        "kind": "PodMonitor",
        "metadata": {"name": "one", "namespace": "here"},
        "spec": {"podMetricsEndpoints": [{"path": "/metrics", "relabelings": []}]},
    },
    {"kind": "PrometheusRule", "spec": {"groups": []}},
]


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not on the PATH (Debian: prometheus)"
)
@pytest.mark.parametrize("is_native", [False, True], ids=["OpenMetrics", "protobuf"])
def test_prometheus_stores_the_trace_of_a_bucket(
    server: Server, tmp_path: Path, is_native: bool
) -> None:
    """Scraped as OpenMetrics; and, where it takes native histograms, as protobuf."""
    name = "qwen3_asr_request_seconds"
    features = "exemplar-storage" + (",native-histograms" if is_native else "")
    begun = time.time()
    trace_id, headers = caller()
    headers["content-type"] = "audio/flac"
    url = server.url + "/v1/models/qwen3-asr:predict"
    assert httpx.post(url, content=CLIP.read_bytes(), headers=headers, timeout=60).is_success
    openmetrics = httpx.get(server.url + "/metrics", headers={"accept": OPENMETRICS}).text
    assert trace_id in openmetrics
    with Prometheus(TARGET, {"one": server.url}, tmp_path, features=features) as prometheus:

        def stored() -> list[dict[str, Any]]:
            return prometheus.exemplars(f'{name}_bucket{{protocol="v1"}}', begun - 600, begun + 600)

        prometheus.wait("an exemplar", lambda: bool(stored()), timeout_s=60)
        traces = {each["labels"]["trace_id"] for each in stored()}
        assert trace_id in traces
        assert all(each in openmetrics for each in traces)
        counted = server.metric(f"{name}_count", protocol="v1")
        # Dashboards and alerts read the classic series, which are there either way.
        classic = f'{name}_count{{protocol="v1"}}'
        assert [value for _, value in prometheus.query(classic)] == [counted]
        buckets = prometheus.query(f'{name}_bucket{{protocol="v1",le="+Inf"}}')
        assert [value for _, value in buckets] == [counted]
        if is_native:
            series = f'{name}{{protocol="v1"}}'
            assert [v for _, v in prometheus.query(f"histogram_count({series})")] == [counted]
            [(_, lowest)] = prometheus.query(f"histogram_quantile(0, {series})")
            [(_, highest)] = prometheus.query(f"histogram_quantile(1, {series})")
            [first, *_] = stored()
            assert lowest <= float(first["value"]) <= highest
        queued = "qwen3_asr_queue_seconds"  # seen in the engine, without a trace: no exemplar
        assert prometheus.exemplars(queued, begun - 600, begun + 600) == []
