"""Ten times the load that a server can bear: what is answered and refused, and what that costs.

    python -m tests.chaos.overload --out tests/chaos/results/overload.json

Rounds take turns: eight clips in flight, which is what the server can bear, then ten times the
requests a second that it answered. Clients are a process of their own that sends bytes made before.
Answers are counted for each second of the clock, and for each second of the processor's time that
all of the server's processes take, so that other work on the machine changes the second figure
little. Times of refusals are the clock's; the probe's beside them, which waits for nothing, and the
machine's load say how much of them is others' work.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from tests.api.conftest import Server, start
from tests.bench.environment import describe
from tests.bench.memory import children
from tests.chaos.offered import CLIP_S, PROTOCOLS, Offered, offer

MAX_HELD_S = 30.0  # nine of the clips
IN_FLIGHT = 8
TIMES = 10
TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    return [pid, *(found for child in children(pid) for found in family(child))]


def cpu_s(server: Server) -> float:
    """Of all its processes so far."""
    total = 0
    for pid in family(server.process.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def load(server: Server, offered: Offered) -> dict[str, Any]:
    """One round: what the clients saw, and what it cost the server."""
    decoded = "qwen3_asr_audio_decode_seconds_count"
    before_s, before = cpu_s(server), server.metric(decoded)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seen = pool.apply(offer, (server.url, server.grpc, offered))
    spent_s = cpu_s(server) - before_s
    return {
        **seen,
        "decoded": round(server.metric(decoded) - before),
        "cpu_s": round(spent_s, 2),
        "answered_a_cpu_s": round(seen["answered"] / spent_s, 3),
        "load_average": os.getloadavg()[0],
    }


def rounds(server: Server, protocol: str, count: int, seconds: float) -> dict[str, Any]:
    """At capacity and at ten times, `count` times in turn."""
    load(server, Offered(protocol, seconds / 4, in_flight=IN_FLIGHT))  # warm-up
    each = []
    for _ in range(count):
        capacity = load(server, Offered(protocol, seconds, in_flight=IN_FLIGHT))
        rate = TIMES * capacity["answered_a_s"]
        each.append(
            {
                "at_capacity": capacity,
                "ten_times": load(server, Offered(protocol, seconds, a_second=rate)),
            }
        )

    def share(name: str) -> float:
        sums = [sum(r[which][name] for r in each) for which in ("ten_times", "at_capacity")]
        return sums[0] / sums[1]

    return {
        "goodput_share": round(share("answered_a_s"), 3),
        "goodput_share_a_cpu_s": round(share("answered") / share("cpu_s"), 3),
        "rounds": each,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--protocols", nargs="+", default=[*PROTOCOLS], choices=PROTOCOLS)
    parser.add_argument(
        "--settings", nargs="*", default=[], metavar="NAME=VALUE", help="of the server"
    )
    arguments = parser.parse_args()
    began = {"at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()), "load_average": os.getloadavg()}
    given = [f"--{setting}" for setting in arguments.settings]
    server = start(f"--max_held_audio_s={MAX_HELD_S}", *given)
    try:
        measured = {
            protocol: rounds(server, protocol, arguments.rounds, arguments.seconds)
            for protocol in arguments.protocols
        }
    finally:
        server.end()
    result = {
        "machine": describe(),
        "began": began,
        "clip_s": CLIP_S,
        "max_held_audio_s": MAX_HELD_S,
        "settings": arguments.settings,
        "warm_up_s": arguments.seconds / 4,
        "in_flight_at_capacity": IN_FLIGHT,
        "offered": f"Poisson arrivals, {TIMES} times the answers a second of the round before",
        "protocols": measured,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
