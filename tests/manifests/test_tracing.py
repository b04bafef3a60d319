"""components/tracing makes the real server send spans: a caller's trace id reaches a collector."""

from __future__ import annotations

import gzip
import importlib.util
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from tests.manifests.objects import MANIFESTS, ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.sdk") is None
    or importlib.util.find_spec("opentelemetry.exporter") is None,
    reason="the tracing extra is not installed",
)
CHECKPOINT = ROOT / "predictor" / "checkpoints" / "tiny"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


class Collector(ThreadingHTTPServer):
    """Takes what an OTLP collector would take over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()


class CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.put((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def environment(address: str) -> dict[str, str]:
    """The component's variables, with the collector here in place of the cluster's."""
    patches = yaml.safe_load((MANIFESTS / "components/tracing/runtime.yaml").read_text())
    added = [patch["value"] for patch in patches if "/env/" in patch["path"]]
    values = {each["name"]: each["value"] for each in added}
    assert values["OTEL_EXPORTER_OTLP_ENDPOINT"].startswith("http://")
    return {**os.environ, **values, "OTEL_EXPORTER_OTLP_ENDPOINT": address}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def test_a_callers_trace_goes_on(collector: Collector, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "predictor", "--model_name=qwen3-asr"]
    command += [f"--model_dir={CHECKPOINT}", f"--http_port={port}", "--enable_grpc=false"]
    address = f"http://127.0.0.1:{collector.server_port}"
    log = (tmp_path / "log").open("wb")
    with subprocess.Popen(
        command, env=environment(address), cwd=ROOT, stdout=log, stderr=log
    ) as server:
        try:
            transport = httpx.HTTPTransport(retries=60)  # until it listens
            with httpx.Client(transport=transport, timeout=60) as client:
                answer = client.get(
                    f"http://127.0.0.1:{port}/v2",
                    headers={"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"},
                )
            assert answer.status_code == 200
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=120)
    log.close()
    path, spans = collector.received.get(timeout=10)
    assert path == "/v1/traces"
    assert bytes.fromhex(TRACE_ID) in spans
    assert b"qwen3-asr" in spans
    assert b"GET" in spans
