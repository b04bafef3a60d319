"""Starting, counting, and ending: what the orchestrator sees."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

MODEL = "qwen3-asr"
ROOT = Path(__file__).parents[2]


def test_metrics_count_what_happened(
    server: Any, speech: bytes, said: list[dict[str, Any]]
) -> None:
    labels = {"protocol": "recognize", "code": "200"}
    before = server.metric("qwen3_asr_requests_total", **labels)
    audio_before = server.metric("qwen3_asr_audio_transcribed_seconds_total")
    bad_before = server.metric("qwen3_asr_errors_total", protocol="v1", error="invalid_input")
    httpx.post(server.url + "/api/v1/recognize", files={"audio": speech}).raise_for_status()
    httpx.post(server.url + f"/v1/models/{MODEL}:predict", json={"instances": []})
    assert server.metric("qwen3_asr_requests_total", **labels) == before + 1
    heard = server.metric("qwen3_asr_audio_transcribed_seconds_total") - audio_before
    assert heard == pytest.approx(said[0]["duration"])
    bad = server.metric("qwen3_asr_errors_total", protocol="v1", error="invalid_input")
    assert bad == bad_before + 1
    assert server.metric("qwen3_asr_requests_in_flight", protocol="recognize") == 0
    assert server.metric("qwen3_asr_load") == 0
    assert server.metric("qwen3_asr_audio_capacity_seconds") > 0
    assert server.metric("qwen3_asr_model_ready") == 1
    assert server.metric("qwen3_asr_engine_alive") == 1
    assert server.metric("qwen3_asr_model_load_seconds") > 0
    assert server.metric("qwen3_asr_time_to_first_token_seconds_count") > 0
    assert server.metric("qwen3_asr_queue_seconds_count") > 0
    assert server.metric("qwen3_asr_batch_size_count") > 0
    assert server.metric("qwen3_asr_tokens_total", kind="audio") > 0
    assert server.metric("request_predict_seconds_count", model_name=MODEL) > 0  # KServe's own


def test_the_metrics_say_on_what_the_model_runs(server: Any) -> None:
    """Not the settings' `auto`: what was chosen."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(httpx.get(server.url + "/metrics").text)
    [info] = [s.labels for f in families for s in f.samples if s.name == "qwen3_asr_model_info"]
    assert (info["device"], info["dtype"]) == ("cpu", "float32")
    assert (info["model_name"], info["checkpoint"]) == (MODEL, "tiny")


def test_every_metric_has_our_name_and_bounded_labels(server: Any) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    for path in ("/v2/models/a/infer", "/v1/models/b:predict", "/v2/x/y/z"):
        httpx.post(server.url + path)
    text = httpx.get(server.url + "/metrics").text
    families = [f for f in text_string_to_metric_families(text) if f.name.startswith("qwen3")]
    assert len(families) > 20
    for family in families:
        assert family.documentation
        for sample in family.samples:
            protocol = sample.labels.get("protocol")
            assert protocol in (None, "v1", "v2", "grpc", "openai", "recognize")


def test_an_orderly_end(
    start_server: Any, wav: Callable[..., bytes], talk: Callable[..., np.ndarray]
) -> None:
    """Requests in flight are answered after SIGTERM, new connections are not."""
    server = start_server()
    clip = wav(talk(12.0))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(
                httpx.post, server.url + "/api/v1/recognize", files={"audio": clip}, timeout=60
            )
            for _ in range(4)
        ]
        while server.metric("qwen3_asr_requests_in_flight", protocol="recognize") < 4:
            if any(task.done() for task in work):
                break
        server.process.send_signal(signal.SIGTERM)
        assert [task.result().status_code for task in work] == [200] * 4
    assert server.end() == 0
    messages = [line["message"] for line in server.lines]
    assert messages.index("shutting down") < messages.index("stopped") == len(messages) - 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/healthz")


def test_an_end_while_loading(start_server: Any) -> None:
    server = start_server(until="listening")
    assert httpx.get(server.url + "/healthz").status_code == 200
    assert server.end() == 0


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--model_dir=/no/such/folder"], 1, "/no/such/folder"),
        (["--no_such_setting=1"], 2, "no_such_setting"),
        (["--http_port=eighty"], 2, "http_port"),
        (["--language=klingon"], 2, "klingon"),
        (["--grpc_port=70000"], 2, "grpc_port"),
    ],
)
def test_a_start_that_cannot_succeed_says_why(flags: list[str], status: int, said: str) -> None:
    ports = ["--http_port=0", "--grpc_port=0", "--host=127.0.0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "predictor", *ports, *flags],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr


def test_a_port_in_use_is_an_error(server: Any) -> None:
    port = httpx.URL(server.url).port
    done = subprocess.run(
        [sys.executable, "-m", "predictor", "--host=127.0.0.1", f"--http_port={port}"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert "the port is taken" in done.stderr
