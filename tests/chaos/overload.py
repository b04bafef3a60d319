"""Ten times the load that a server can bear: what is answered and refused, and what that costs.

    python -m tests.chaos.overload --out tests/chaos/results/overload.json

Answers are counted for each second of the processor's time that all of the server's processes
take, so that other work on the machine changes nothing. Times of refusals are the clock's, and do
tell of other work; the probe's beside them, which waits for nothing, says how much.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.api.conftest import RECORDINGS, Server, start
from tests.bench.environment import describe

PATH = "/api/v1/recognize"
MAX_HELD_S = 30.0  # nine of the clips
CLIP = RECORDINGS / "demo-en-1.flac"
TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = [
        int(child)
        for tasks in Path(f"/proc/{pid}/task").glob("*/children")
        for child in tasks.read_text().split()
    ]
    return [pid, *(found for child in children for found in family(child))]


def cpu_s(server: Server) -> float:
    """Of all its processes so far."""
    total = 0
    for pid in family(server.process.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def load(server: Server, num_clients: int, seconds: float) -> dict[str, Any]:
    """Clients that send one clip after the other, again at once when they are refused."""
    data, until = CLIP.read_bytes(), time.monotonic() + seconds
    statuses: list[int] = []
    refused_s: list[float] = []
    probe_s: list[float] = []

    def client() -> None:
        with httpx.Client(base_url=server.url, timeout=600) as http:
            while time.monotonic() < until:
                began = time.monotonic()
                response = http.post(PATH, files={"audio": data})
                statuses.append(response.status_code)
                if response.status_code == 429:
                    refused_s.append(time.monotonic() - began)
                    time.sleep(0.2)

    def probe() -> None:
        with httpx.Client(base_url=server.url, timeout=600) as http:
            while time.monotonic() < until:
                began = time.monotonic()
                http.get("/healthz").raise_for_status()
                probe_s.append(time.monotonic() - began)
                time.sleep(0.2)

    decoded = "qwen3_asr_audio_decode_seconds_count"
    before_s, before = cpu_s(server), server.metric(decoded)
    threads = [threading.Thread(target=work) for work in [client] * num_clients + [probe]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent_s = cpu_s(server) - before_s
    answered = statuses.count(200)
    return {
        "clients": num_clients,
        "seconds": seconds,
        "answered": answered,
        "refused": statuses.count(429),
        "others": len(statuses) - answered - statuses.count(429),
        "decoded": round(server.metric(decoded) - before),
        "cpu_s": round(spent_s, 2),
        "answered_a_cpu_s": round(answered / spent_s, 3),
        **{f"refusal_{name}_ms": value for name, value in _of(refused_s).items()},
        **{f"probe_{name}_ms": value for name, value in _of(probe_s).items()},
    }


def _of(times_s: list[float]) -> dict[str, float]:
    if len(times_s) < 2:
        return {}
    cuts = statistics.quantiles(times_s, n=20)
    return {"p50": round(1000 * statistics.median(times_s)), "p95": round(1000 * cuts[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    server = start(f"--max_held_audio_s={MAX_HELD_S}")
    try:
        load(server, 8, arguments.seconds / 4)  # warm-up
        rounds = [
            {"at_capacity": load(server, 8, arguments.seconds),
             "ten_times": load(server, 80, arguments.seconds)}
            for _ in range(2)
        ]  # fmt: skip
    finally:
        server.end()
    goodputs = {
        name: sum(r[name]["answered"] for r in rounds) / sum(r[name]["cpu_s"] for r in rounds)
        for name in ("at_capacity", "ten_times")
    }
    result = {
        "machine": describe(),
        "clip_s": 3.245,
        "max_held_audio_s": MAX_HELD_S,
        "goodput_share": round(goodputs["ten_times"] / goodputs["at_capacity"], 3),
        "rounds": rounds,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
