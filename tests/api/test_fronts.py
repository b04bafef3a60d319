"""Several fronts before several engines behave as one server, also when one of them dies."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.bench import memory

FRONT, ENGINE = b"predictor.front", b"predictor.engine.link.worker"
ALIGNER = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny-aligner"
RECOGNIZE = "/api/v1/recognize"


@pytest.fixture(scope="module")
def pod(start_server: Any) -> Any:
    """Two fronts, an aligner, and two engines, on two devices as far as anybody can tell."""
    return start_server("--num_front_processes=2", "--devices=0,1", f"--aligner_dir={ALIGNER}")


def children(pid: int, module: bytes) -> list[int]:
    """The processes that `pid` started which run `module`."""
    found = memory.children(pid)
    return sorted(p for p in found if module in Path(f"/proc/{p}/cmdline").read_bytes())


def number(text: str, sample: str) -> float:
    """The value of one sample in an exposition."""
    [value] = re.findall(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(value)


def test_the_answers_are_the_same(
    pod: Any, recordings: list[bytes], said: list[dict[str, Any]]
) -> None:
    for _ in range(3):  # each on a connection of its own, which the kernel deals out
        answers = [httpx.post(pod.url + RECOGNIZE, files={"audio": r}).json() for r in recordings]
        assert answers == said


def test_one_scrape_tells_of_the_whole_pod(pod: Any, speech: bytes) -> None:
    sample = 'qwen3_asr_requests_total{code="200",protocol="recognize"}'
    httpx.post(pod.url + RECOGNIZE, files={"audio": speech}).raise_for_status()
    before = number(httpx.get(pod.url + "/metrics").text, sample)
    for _ in range(10):
        httpx.post(pod.url + RECOGNIZE, files={"audio": speech}).raise_for_status()
    running = re.compile(r"^qwen3_asr_sequences_running\{.*\} [1-9]", re.MULTILINE)
    while running.search(httpx.get(pod.url + "/metrics").text):
        time.sleep(0.05)  # an answer is out before its sequence has ended
    texts = [httpx.get(pod.url + "/metrics").text for _ in range(6)]
    assert {number(text, sample) for text in texts} == {before + 10}
    for text in texts:
        assert number(text, "qwen3_asr_model_ready") == 1
        assert number(text, "qwen3_asr_engine_alive") == 1
        assert number(text, "qwen3_asr_load") == 0
        assert number(text, "qwen3_asr_audio_capacity_seconds") == 7200
        for device in ("cpu:0", "cpu:1"):
            assert number(text, f'qwen3_asr_sequences_running{{device="{device}"}}') == 0
        families = re.findall(r"^# TYPE (qwen3_asr_\w+)", text, re.MULTILINE)
        assert len(families) == len(set(families)) > 20
        [help_text] = re.findall(r"^# HELP qwen3_asr_requests_total (.*)$", text, re.MULTILINE)
        assert help_text.startswith("Requests answered")
        assert "request_predict_seconds_count" in text  # KServe's own


def test_every_step_is_counted_by_one_front(pod: Any, speech: bytes) -> None:
    sample = "qwen3_asr_queue_seconds_count"
    before = number(httpx.get(pod.url + "/metrics").text, sample)
    for _ in range(6):
        httpx.post(pod.url + RECOGNIZE, files={"audio": speech}).raise_for_status()
    while (now := number(httpx.get(pod.url + "/metrics").text, sample)) < before + 6:
        time.sleep(0.02)  # news of steps come a moment later
    assert now == before + 6


def test_fronts_load_no_torch(pod: Any, encodings: dict[str, bytes]) -> None:
    """They have decoded, resampled and answered by now; only the engines need it."""
    for data in encodings.values():
        httpx.post(pod.url + RECOGNIZE, files={"audio": data}).raise_for_status()

    def has_torch(pid: int) -> bool:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()

    assert not any(map(has_torch, children(pod.process.pid, FRONT)))
    assert all(map(has_torch, children(pod.process.pid, ENGINE)))
    assert not has_torch(pod.process.pid)


def test_a_front_that_dies_is_replaced_and_the_others_serve_on(
    pod: Any, speech: bytes, said: list[dict[str, Any]]
) -> None:
    sample = 'qwen3_asr_requests_total{code="200",protocol="recognize"}'
    httpx.post(pod.url + RECOGNIZE, files={"audio": speech}).raise_for_status()
    before = number(httpx.get(pod.url + "/metrics").text, sample)
    victim, other = children(pod.process.pid, FRONT)
    os.kill(victim, signal.SIGKILL)
    answered = 0
    while len(now := children(pod.process.pid, FRONT)) < 2 or answered < 3:
        try:
            answer = httpx.post(pod.url + RECOGNIZE, files={"audio": speech}, timeout=60)
        except httpx.TransportError:  # a connection that the dead one had been dealt
            continue
        assert answer.json() == said[0]
        answered += 1
    assert other in now
    assert victim not in now
    while len(listeners(pod)) < 2:
        time.sleep(0.02)  # leaves the processor to it; the test's time limit ends it
    for _ in range(6):
        assert httpx.get(pod.url + "/v2/health/ready").status_code == 200
    counted = number(httpx.get(pod.url + "/metrics").text, sample)
    assert counted == before + answered, "what the dead one counted stays counted"
    text = httpx.get(pod.url + "/metrics").text
    assert number(text, "qwen3_asr_front_restarts_total") == 1
    assert number(text, 'qwen3_asr_front_processes{state="ready"}') == 2


def listeners(pod: Any) -> set[int]:
    """The processes of the pod that listen on its HTTP port."""
    port = httpx.URL(pod.url).port
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {r[9] for r in rows if r[1].endswith(f":{port:04X}") and r[3] == "0A"}
    found = set()
    for pid in children(pod.process.pid, FRONT):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                link = os.readlink(fd)
            except OSError:
                continue
            if link.startswith("socket:[") and link[8:-1] in sockets:
                found.add(pid)
    return found


def test_a_port_in_use_is_an_error(pod: Any, start_server: Any) -> None:
    with pytest.raises(RuntimeError, match=r"http_port=\d+: the port is taken"):
        start_server("--num_front_processes=2", f"--http_port={httpx.URL(pod.url).port}")


def test_fronts_share_one_aligner_that_comes_back_once(pod: Any, speech: bytes) -> None:
    def words() -> httpx.Response:
        return httpx.post(
            pod.url + RECOGNIZE, files={"audio": speech}, data={"words": "true"}, timeout=60
        )

    expected = words().json()["words"]
    assert all(words().json()["words"] == expected for _ in range(4))
    [aligner] = children(pod.process.pid, b"predictor.align.worker")
    os.kill(aligner, signal.SIGKILL)
    assert words().json()["words"] == expected
    [aligner] = children(pod.process.pid, b"predictor.align.worker")
    os.kill(aligner, signal.SIGKILL)
    assert words().status_code == 503
    text = httpx.post(pod.url + RECOGNIZE, files={"audio": speech}, timeout=60).json()
    assert text["text"]


def test_an_orderly_end(
    pod: Any, wav: Callable[..., bytes], talk: Callable[..., np.ndarray]
) -> None:
    """Requests in flight on any front are answered after SIGTERM; then everything is gone."""
    pids = children(pod.process.pid, FRONT) + children(pod.process.pid, ENGINE)
    assert len(pids) == 4
    clip = wav(talk(12.0))
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        work = [
            pool.submit(httpx.post, pod.url + RECOGNIZE, files={"audio": clip}, timeout=60)
            for _ in range(6)
        ]
        in_flight = 'qwen3_asr_requests_in_flight{protocol="recognize"}'
        while number(httpx.get(pod.url + "/metrics").text, in_flight) < 6:
            if any(task.done() for task in work):
                break
        pod.process.send_signal(signal.SIGTERM)
        assert [task.result().status_code for task in work] == [200] * 6
    assert pod.end() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(pod.url + "/healthz")


def test_a_pod_that_is_killed_leaves_nobody_behind(start_server: Any) -> None:
    pod = start_server("--num_front_processes=2")
    pids = children(pod.process.pid, FRONT) + children(pod.process.pid, ENGINE)
    assert len(pids) == 3
    pod.process.kill()
    while [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        time.sleep(0.02)  # leaves the processor to it; the test's time limit ends it


def test_a_checkpoint_that_cannot_be_loaded_says_why(start_server: Any) -> None:
    with pytest.raises(RuntimeError, match="/no/such/folder"):
        start_server("--num_front_processes=2", "--model_dir=/no/such/folder")
