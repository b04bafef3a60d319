"""Replays traffic against autoscalers: GPU hours, and requests that took too long.

python -m tests.bench.scaling.simulate   # writes results/scaling.json and manifests/SCALING.md

A replica is what was measured on one H200 (results/http-h200.json): audio seconds a second by the
audio in flight. Steps of a second, in which the replicas are in equilibrium; what exceeds their
rate waits. Clips are served first come first served; a long recording has eight pieces under way
at most and shares with them. Live sessions have places, and go before files. The capacity that
`qwen3_asr_load` divides by is learned as the server learns it, by its own code.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from predictor.engine.tally import Speed
from predictor.metrics import Capacity
from tests.bench.environment import ROOT
from tests.bench.scaling import traffic as replay
from tests.bench.scaling.controllers import Hpa, Kpa
from tests.bench.scaling.traffic import CLIP_S, LONG_S, SESSION_S, Traffic

RESULTS = ROOT / "tests" / "bench" / "results"
DOCUMENT = ROOT / "manifests" / "SCALING.md"
BEGIN, END = "<!-- scaling:begin -->\n", "<!-- scaling:end -->"
READY_S = 60  # until a new pod serves: assumed, of which the process itself takes 8 as measured
MAX_PODS = 16
SESSIONS_A_POD = 64  # max_live_sessions
MAX_HELD_S = 7200.0  # max_held_audio_s
LOAD_TARGET = 0.7  # of qwen3_asr_load, for each replica
FULL_LOADS_S = (5.0, 1.0, 0.5, 0.25)  # full_load_s: the default, and what was tried
SESSION_COST = 4.0  # audio seconds a second that a session takes of a replica: assumed
CLIP_SLO_S = 2.0
LONG_SLO_S = LONG_S / 10
LONG_PIECES_S = 8 * 30.0  # of a long recording under way
PEAK = 24_000.0  # audio seconds a second


@dataclass(frozen=True)
class Replica:
    """Audio seconds a second (`rates`) by those in flight (`flights`), both rising from 0."""

    flights: tuple[float, ...]
    rates: tuple[float, ...]  # the second one is that of a clip alone

    @property
    def rate(self) -> float:
        return self.rates[-1]

    def in_flight(self, rate: float) -> float:
        return float(np.interp(rate, self.rates, self.flights))


def measured() -> Replica:
    """From one clip to 256 at once, by their audio."""
    rows = json.loads((RESULTS / "http-h200.json").read_text())["rows"]
    one = CLIP_S / (rows["1.7B fronts one clip"]["value"] / 1000)
    loads = [(8, 8), (64, 30), (256, 10)]  # recordings in flight, of so many seconds
    rates = [rows[f"1.7B fronts {n} x {length} s openai"]["value"] for n, length in loads]
    flights = [float(n * length) for n, length in loads]
    return Replica((0.0, CLIP_S, *flights), (0.0, one, *rates))


@dataclass(frozen=True)
class State:
    """What an autoscaler may look at in a second."""

    concurrency: float  # requests in the system, live sessions among them
    requests: float  # that arrived in this second
    held_s: float  # of audio
    sessions: int
    speed: float  # audio seconds a second of work, as each replica has learned it; 0 at first


@dataclass
class Service:
    """Replicas, and the work they hold."""

    replica: Replica
    pods: list[int] = field(default_factory=lambda: [0])  # the second from which each serves
    clips_s: float = 0.0
    long_remaining: list[list[float]] = field(default_factory=list)  # [start, seconds left]
    sessions: deque[int] = field(default_factory=deque)  # ends
    arrived: list[float] = field(default_factory=list)  # audio of clips, added up
    served: list[float] = field(default_factory=list)
    late_longs: int = 0
    refused: int = 0
    speed: Speed = field(default_factory=Speed)

    def ready(self, now: int) -> int:
        return sum(at <= now for at in self.pods)

    def step(self, now: int, clips: int, longs: int, sessions: int) -> State:
        """A second."""
        ready = self.ready(now)
        self._take_sessions(now, sessions, ready)
        self.long_remaining += [[now, LONG_S] for _ in range(longs)]
        self.clips_s += clips * CLIP_S
        free = max(0.0, ready * self.replica.rate - SESSION_COST * len(self.sessions))
        under_way = self._longs_under_way()
        share = free * self.clips_s / (self.clips_s + under_way) if self.clips_s else 0.0
        clips_done = min(self.clips_s, max(share, free - under_way))
        self.clips_s -= clips_done
        long_done = self._serve_longs(now, free - clips_done)
        self.arrived.append((self.arrived[-1] if self.arrived else 0.0) + clips * CLIP_S)
        self.served.append((self.served[-1] if self.served else 0.0) + clips_done)
        rate = (clips_done + long_done) / max(ready, 1)
        flying_s = ready * self.replica.in_flight(rate)
        self.speed.worked(min(1.0, rate / self.replica.rates[1]))  # below a clip at a time it rests
        self.speed.done(rate)
        num_long = len(self.long_remaining)
        held_clips_s = self.clips_s + flying_s * clips_done / max(clips_done + long_done, 1e-9)
        held_s = held_clips_s + self._longs_under_way()
        concurrency = held_clips_s / CLIP_S + num_long + len(self.sessions)
        num_sessions, speed = len(self.sessions), self.speed.audio_per_s
        return State(concurrency, clips + longs + sessions, held_s, num_sessions, speed)

    def _longs_under_way(self) -> float:
        return sum(min(left, LONG_PIECES_S) for _, left in self.long_remaining)

    def _take_sessions(self, now: int, sessions: int, ready: int) -> None:
        while self.sessions and self.sessions[0] <= now:
            self.sessions.popleft()
        for _ in range(sessions):
            if len(self.sessions) < SESSIONS_A_POD * ready:
                self.sessions.append(now + SESSION_S)
            else:
                self.refused += 1

    def _serve_longs(self, now: int, free: float) -> float:
        """Evenly, a recording's pieces under way at most."""
        if not self.long_remaining:
            return 0.0
        each = min(free / len(self.long_remaining), LONG_PIECES_S)
        done = 0.0
        for recording in self.long_remaining:
            taken = min(each, recording[1])
            recording[1] -= taken
            done += taken
        self.late_longs += sum(
            now - start > LONG_SLO_S for start, left in self.long_remaining if left <= 0
        )
        self.long_remaining = [each for each in self.long_remaining if each[1] > 0]
        return done

    def scale(self, now: int, wanted: int) -> None:
        """New pods serve later; the newest go first."""
        wanted = min(max(wanted, 1), MAX_PODS)
        self.pods += [now + READY_S] * (wanted - len(self.pods))
        del self.pods[wanted:]

    def late_clips(self) -> float:
        """Clips whose audio was served more than the SLO after it came; what waits still counts."""
        arrived, served = np.array(self.arrived), np.array(self.served)
        done = np.searchsorted(served, arrived - 1e-6) - np.arange(len(arrived))
        counts = np.diff(arrived, prepend=0.0) / CLIP_S
        return float(counts[done > CLIP_SLO_S].sum())


Signal = Callable[[State], float]


@dataclass(frozen=True)
class Policy:
    """An autoscaler with what it scales on, and the target of one pod."""

    name: str
    kind: type[Kpa] | type[Hpa]
    signal: Signal
    target: float


def policies(replica: Replica) -> list[Policy]:
    """The manifests' (concurrency 32 at 70 %, a load of 70 %) and their rivals."""
    requests = replica.rate / CLIP_S * 0.7
    return [
        Policy("Knative, concurrency", Kpa, lambda s: s.concurrency, 32 * 0.7),
        Policy("Knative, requests a second", Kpa, lambda s: s.requests, requests),
        Policy("KEDA, 640 audio seconds held", Hpa, lambda s: s.held_s, 640),
        *(_load(full_load_s) for full_load_s in FULL_LOADS_S),
    ]


def load_name(full_load_s: float) -> str:
    return f"KEDA, qwen3_asr_load, full_load_s {full_load_s:g}"


def _load(full_load_s: float) -> Policy:
    """The sum of qwen3_asr_load over all replicas: audio held and sessions, by what each may."""
    capacity = Capacity(MAX_HELD_S, full_load_s)

    def signal(state: State) -> float:
        return state.held_s / capacity.audio_s([state.speed]) + state.sessions / SESSIONS_A_POD

    return Policy(load_name(full_load_s), Hpa, signal, LOAD_TARGET)


def run(traffic: Traffic, policy: Policy, replica: Replica) -> dict[str, float]:
    """GPU hours, share of requests over their SLO, most pods."""
    service = Service(replica)
    seen: deque[float] = deque(maxlen=60)
    scaler: Kpa | Hpa
    is_knative = policy.kind is Kpa
    scaler = Kpa(policy.target, scale_down_delay_s=300) if is_knative else Hpa(policy.target)
    gpu_s, most = 0, 1
    arrivals = zip(traffic.clips, traffic.longs, traffic.sessions, strict=True)
    for now, (clips, longs, sessions) in enumerate(arrivals):
        seen.append(policy.signal(service.step(now, int(clips), int(longs), int(sessions))))
        if isinstance(scaler, Kpa) and now % 2 == 0:
            panic = list(seen)[-6:]
            stable = sum(seen) / len(seen)
            wanted = scaler.decide(now, stable, sum(panic) / len(panic), service.ready(now))
            service.scale(now, wanted)
        elif isinstance(scaler, Hpa) and now % 15 == 0:
            service.scale(now, scaler.decide(now, seen[-1], len(service.pods)))
        gpu_s += len(service.pods)
        most = max(most, len(service.pods))
    late_longs = service.late_longs + sum(
        len(traffic.clips) - start > LONG_SLO_S for start, _ in service.long_remaining
    )
    total = float(traffic.clips.sum() + traffic.longs.sum() + traffic.sessions.sum())
    late = service.late_clips() + late_longs + service.refused
    return {
        "gpu_hours": gpu_s / 3600,
        "late": late / total,
        "late_longs": late_longs,
        "refused_sessions": service.refused,
        "most_pods": most,
    }


def all_runs() -> dict[str, dict[str, dict[str, float]]]:
    replica = measured()
    scenarios = [make(PEAK) for make in (replay.day, replay.burst, replay.mixed, replay.live)]
    return {
        traffic.name: {p.name: run(traffic, p, replica) for p in policies(replica)}
        for traffic in scenarios
    }


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row for each traffic and policy."""
    lines = [
        "| traffic | scaled by | GPU hours | over the SLO | hour-long recordings late "
        "| sessions refused | most replicas |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for traffic, results in rows.items():
        for policy, row in results.items():
            lines.append(
                f"| {traffic} | {policy} | {row['gpu_hours']:.1f} | {row['late']:.2%} "
                f"| {row['late_longs']:.0f} | {row['refused_sessions']:.0f} "
                f"| {row['most_pods']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Replay everything, write the results and the table."""
    rows = all_runs()
    result = {"replica": "results/http-h200.json, 1.7B, several fronts", "rows": rows}
    (RESULTS / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(head + BEGIN + table(rows) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
