"""The server with its engine in a process of its own: the same answers, and an end for both."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.bench.memory import children

ROOT = Path(__file__).parents[2]
FLAG = "--engine_process=true"


@pytest.fixture(scope="module")
def apart(start_server: Any) -> Any:
    """A server with its engine in a process of its own."""
    return start_server(FLAG)


def engine_pid(server: Any) -> int:
    """The process id of a server's engine."""
    [found] = [
        child
        for child in children(server.process.pid)
        if b"predictor.engine.link.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return found


def test_the_answers_are_the_same(
    apart: Any, recordings: list[bytes], said: list[dict[str, Any]]
) -> None:
    url = apart.url + "/api/v1/recognize"
    answers = [httpx.post(url, files={"audio": data}, timeout=60).json() for data in recordings]
    assert answers == said


def test_a_stream_grows_to_the_same_text(
    apart: Any, speech: bytes, said: list[dict[str, Any]]
) -> None:
    response = httpx.post(
        apart.url + "/v1/audio/transcriptions",
        data={"model": "qwen3-asr", "stream": "true"},
        files={"file": speech},
        timeout=60,
    )
    assert '"type":"transcript.text.delta"' in response.text
    assert f'"text":"{said[0]["text"]}"' in response.text.splitlines()[-2]


def test_the_engines_metrics_are_there(apart: Any, speech: bytes) -> None:
    httpx.post(apart.url + "/api/v1/recognize", files={"audio": speech}).raise_for_status()
    assert apart.metric("qwen3_asr_queue_seconds_count") > 0
    assert apart.metric("qwen3_asr_batch_size_count") > 0
    assert apart.metric("qwen3_asr_time_to_first_token_seconds_count") > 0
    assert apart.metric("qwen3_asr_engine_alive") == 1
    assert apart.metric("qwen3_asr_load") == 0
    running = 'qwen3_asr_sequences_running{device="cpu"} 0.0'
    assert running in httpx.get(apart.url + "/metrics").text
    labels = {"model_name": "qwen3-asr", "checkpoint": "tiny", "device": "cpu", "dtype": "float32"}
    from predictor import __version__

    metadata = httpx.get(apart.url + "/v2/models/qwen3-asr").json()
    labels["identity"] = metadata["properties"]["model_identity"]
    assert apart.metric("qwen3_asr_model_info", version=__version__, **labels) == 1


def test_an_orderly_end(
    start_server: Any, wav: Callable[..., bytes], talk: Callable[..., np.ndarray]
) -> None:
    """Requests in flight are answered after SIGTERM, sent to both; then both are gone."""
    server = start_server(FLAG)
    pid = engine_pid(server)
    clip = wav(talk(12.0))
    url = server.url + "/api/v1/recognize"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        work = [pool.submit(httpx.post, url, files={"audio": clip}, timeout=60) for _ in range(4)]
        while server.metric("qwen3_asr_requests_in_flight", protocol="recognize") < 4:
            if any(task.done() for task in work):
                break
        os.kill(pid, signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        assert [task.result().status_code for task in work] == [200] * 4
    assert server.end() == 0
    assert not Path(f"/proc/{pid}").exists()


def test_a_killed_engine_starts_again_once_and_then_the_server_leaves(
    apart: Any, speech: bytes, said: list[dict[str, Any]]
) -> None:
    pid = engine_pid(apart)
    os.kill(pid, signal.SIGKILL)
    ready = apart.url + "/v2/health/ready"
    while httpx.get(ready).status_code == 200:
        time.sleep(0.02)  # leaves the processor to it; the test's time limit ends it
    assert httpx.get(apart.url + "/healthz").status_code == 200, "nothing but time is needed"
    answer = httpx.post(apart.url + "/api/v1/recognize", files={"audio": speech}, timeout=60)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    while httpx.get(ready).status_code != 200:
        time.sleep(0.02)
    answer = httpx.post(apart.url + "/api/v1/recognize", files={"audio": speech}, timeout=60)
    assert answer.json() == said[0]
    again = engine_pid(apart)
    assert again != pid
    os.kill(again, signal.SIGKILL)
    assert apart.process.wait(timeout=600) == 1
    assert "did not come back" in json.dumps(apart.lines)


def test_a_checkpoint_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    tiny = ROOT / "predictor" / "checkpoints" / "tiny"
    for file in tiny.iterdir():
        if file.suffix in (".json", ".txt", ".jinja"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(bytes(64))
    command = [sys.executable, "-m", "predictor", FLAG, f"--model_dir={tmp_path}"]
    done = subprocess.run(
        [*command, "--http_port=0", "--grpc_port=0", "--host=127.0.0.1", "--device=cpu"],
        capture_output=True, text=True, timeout=600, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "the server cannot go on" in done.stderr
    assert "the header of model.safetensors cannot be read" in done.stderr
