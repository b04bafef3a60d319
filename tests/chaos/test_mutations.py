"""Real requests with bytes changed, over every protocol: no 5xx, no hang, no growth.

A few hundred in the tests; `make soak` sends 30,000, several at a time, and writes
results/mutations.json.
"""

from __future__ import annotations

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.bench.environment import describe
from tests.chaos.mutations import Clients, Counts, bodies, mutated
from tests.chaos.sockets import memory_bytes

MIB = 1024 * 1024
IS_SOAK = "SOAK_S" in os.environ
NUM_MUTATIONS = 30_000 if IS_SOAK else 160
NUM_THREADS = 6 if IS_SOAK else 1
SHARE_OF_SPEECH = 0.02  # of requests that hold speech, in every format; others hold a little noise
ALIGNER = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny-aligner"
RESULTS = Path(__file__).parent / "results" / "mutations.json"
KINDS = {"WAV": "audio/wav", "FLAC": "audio/flac", "OGG": "audio/ogg", "MP3": "audio/mpeg"}


@pytest.fixture(scope="module")
def whole(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with every protocol open."""
    folder = tmp_path_factory.mktemp("jobs")
    return start_server(f"--jobs_dir={folder}", "--max_jobs=20", f"--aligner_dir={ALIGNER}")


def test_mutated_requests_over_all_protocols(
    whole: Any, encodings: dict[str, bytes], speech: bytes, said: list[dict[str, Any]], wav: Any
) -> None:
    noise = np.random.default_rng(1).normal(0, 1e-3, 800).astype(np.float32)
    small = bodies(wav(noise, 8000), "audio/wav")
    spoken = [bodies(data, KINDS[name]) for name, data in encodings.items()]
    counts, early = Counts(), [0]
    began = time.monotonic()

    def attack(index: int) -> None:
        rng, clients = random.Random(index), Clients(whole)
        for body, send in spoken[index % len(spoken)].values():
            send(clients, body)
        while counts.sum < NUM_MUTATIONS:
            chosen = rng.choice(spoken) if rng.random() < SHARE_OF_SPEECH else small
            name = rng.choice(sorted(chosen))
            body, send = chosen[name]
            send(clients, mutated(body, rng))
            if counts.one(name) == NUM_MUTATIONS // 2:
                early[0] = memory_bytes(whole)
        clients.close()

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(attack, range(NUM_THREADS)))
    late = memory_bytes(whole)
    assert late < (1.05 * early[0] if IS_SOAK else 1.1 * early[0] + 64 * MIB)
    after = httpx.post(whole.url + "/api/v1/recognize", files={"audio": speech}, timeout=60)
    assert after.json()["text"] == said[0]["text"]
    assert whole.process.poll() is None
    if IS_SOAK:
        figures = {"machine": describe(), "load_average": os.getloadavg()[0],
                   "seconds": round(time.monotonic() - began), "requests": counts.of,
                   "sum": counts.sum, "server_errors": 0, "rss_early_mib": early[0] // MIB,
                   "rss_late_mib": late // MIB}  # fmt: skip
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
