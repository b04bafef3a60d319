"""From a benchmark and a day's traffic to replicas, autoscaling targets and cost."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.lib.errors import ManifestError, OptionError

HOURS = 24
_LOAD = re.compile(r"(\d+) x (\d+(?:\.\d+)?) s")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What one replica can do when it is never idle."""

    row: str
    rtfx: float  # audio seconds a second
    latency_s: float | None  # until half of the answers are there, under that load
    environment: dict[str, Any]  # hardware and versions, as the benchmark wrote them


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a replica is planned to be loaded with, and what it costs."""

    utilisation: float = 0.5  # share of the benchmark's speed; the rest is for bursts
    min_replicas: int = 1  # 0: scale to zero
    price_per_hour: float = 0.0  # of one replica, any currency

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise OptionError(f"utilisation: {self.utilisation} is not within 0..1")
        if self.min_replicas < 0:
            raise OptionError(f"min_replicas: {self.min_replicas} is below 0")


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour of the day."""

    hour: int
    audio_rate: float  # audio seconds that arrive in a second
    replicas: int
    load: float  # share of the replicas' speed that is used; 0 without replicas


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """A day."""

    hours: tuple[Hour, ...]
    peak_replicas: int
    cost_per_day: float  # replicas following the traffic
    cost_per_day_fixed: float  # always as many as the peak needs
    cost_per_audio_hour: float | None  # None without any traffic


def read_benchmark(
    path: Path, row: str | None = None, *, mean_duration_s: float | None = None
) -> Benchmark:
    """A row of a benchmark by name; else the one with recordings of about `mean_duration_s` and
    most requests in flight; else the first that says an RTFx. Also reads `make load`'s report.

    Raises ManifestError when the file or the row is not there.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if "achieved" in result:
            return _of_load_test(path, result)
        rows = {n: r["value"] for n, r in result["rows"].items() if r.get("unit") == "RTFx"}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ManifestError(f"{path}: is no benchmark: {error}") from error
    name = row or _closest(rows, mean_duration_s) or next(iter(rows), None)
    if name is None or name not in rows:
        raise ManifestError(f"{path}: has no RTFx row {name!r}, only {', '.join(rows) or 'none'}")
    p50_ms = (result["rows"][name].get("latency") or {}).get("p50_ms")
    latency_s = None if p50_ms is None else p50_ms / 1e3
    return Benchmark(name, float(rows[name]), latency_s, result.get("environment", {}))


def _closest(rows: Mapping[str, float], mean_duration_s: float | None) -> str | None:
    """Of rows named like "1.7B own 64 x 10 s": the nearest length, then the largest load."""
    if mean_duration_s is None:
        return None
    found = {name: match for name in rows if (match := _LOAD.search(name)) is not None}
    return min(
        found,
        key=lambda name: (abs(float(found[name][2]) - mean_duration_s), -int(found[name][1])),
        default=None,
    )


def _of_load_test(path: Path, result: dict[str, Any]) -> Benchmark:
    """What a service did under a load that was offered; a lower bound while it kept up."""
    achieved = result["achieved"]
    try:
        name = (
            f"load test at {achieved['achieved_per_s']:.3g} of {achieved['offered_per_s']:.3g} "
            f"requests a second, {achieved['mean_duration_s']:.1f} s each"
        )
        return Benchmark(name, float(achieved["rtfx"]), achieved["p50_s"], {"host": result["host"]})
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{path}: is no report of a load test: {error}") from error


def plan_day(audio_rates: Sequence[float], rtfx: float, sizing: Sizing) -> CapacityPlan:
    """Replicas for each hour from the audio seconds that arrive in a second of that hour."""
    if len(audio_rates) != HOURS or min(audio_rates) < 0 or rtfx <= 0:
        raise OptionError(f"capacity: needs {HOURS} rates of at least 0 and a speed above 0")
    hours = []
    for hour, rate in enumerate(audio_rates):
        replicas = max(sizing.min_replicas, math.ceil(rate / (rtfx * sizing.utilisation)))
        load = rate / (replicas * rtfx) if replicas else 0.0
        hours.append(Hour(hour, rate, replicas, load))
    peak = max(hour.replicas for hour in hours)
    cost = sum(hour.replicas for hour in hours) * sizing.price_per_hour
    audio_hours = sum(audio_rates)  # seconds a second, for an hour each
    return CapacityPlan(
        hours=tuple(hours),
        peak_replicas=peak,
        cost_per_day=cost,
        cost_per_day_fixed=peak * HOURS * sizing.price_per_hour,
        cost_per_audio_hour=cost / audio_hours if audio_hours else None,
    )


def target_concurrency(
    rtfx: float, mean_duration_s: float, latency_s: float, sizing: Sizing
) -> int:
    """Requests in flight at which a replica is loaded as planned (Little's law); at least 1.

    What Knative's `scaleTarget` and a load test's number of users want to be.
    """
    requests_per_s = rtfx * sizing.utilisation / mean_duration_s
    return max(1, round(requests_per_s * latency_s))


def daily_traffic(
    audio_hours_per_day: float, peak_hour: int = 14, night_share: float = 0.1
) -> list[float]:
    """A day like an office's: a cosine with its peak at `peak_hour`, never below `night_share`."""
    shape = [
        night_share + (1 - night_share) * (1 + math.cos(2 * math.pi * (h - peak_hour) / HOURS)) / 2
        for h in range(HOURS)
    ]
    return [audio_hours_per_day * weight / sum(shape) for weight in shape]
