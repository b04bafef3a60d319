"""Rates over a whole run: hallucination, repetition, language confusion, latency, speed, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.lib.journal import Record, wall_time_s
from pipelines.lib.score import ClipScore, Kind

MAX_LOOP_PERIOD = 8  # units in the pattern that repeats
MIN_LOOP_REPEATS = 5  # fewer can be speech: "no no no no"
LATENCY_LEVELS = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many; `rate` is None when there were none to judge."""

    count: int
    of: int

    @property
    def rate(self) -> float | None:
        return self.count / self.of if self.of else None

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "of": self.of, "rate": self.rate}


def hallucination(scores: Iterable[ClipScore]) -> Share:
    """Recordings without speech on which anything was written, a mark such as [music] too."""
    silent = [score for score in scores if score.kind is Kind.NON_SPEECH]
    return Share(sum(score.hallucinated for score in silent), len(silent))


def repetition(scores: Iterable[ClipScore], records: Iterable[Record]) -> Share:
    """Recordings whose transcript loops: seen in the text, or reported by the service."""
    pairs = list(zip(scores, records, strict=True))
    return Share(sum(is_looping(score, record) for score, record in pairs), len(pairs))


def is_looping(score: ClipScore, record: Record) -> bool:
    """Whether a transcript repeats a pattern more often than its reference does."""
    if record.finish_reason == "repetition" or record.num_repeats_removed:
        return True
    said = [unit for span in score.spans for unit in span.reference]
    heard = [unit for span in score.spans for unit in span.hypothesis]
    repeats = longest_loop(heard)
    return repeats >= MIN_LOOP_REPEATS and repeats > longest_loop(said)


def longest_loop(units: Sequence[str]) -> int:
    """The most times that a pattern of up to MAX_LOOP_PERIOD units follows itself (1 = never)."""
    best = min(1, len(units))
    for period in range(1, min(MAX_LOOP_PERIOD, len(units) // 2) + 1):
        run = 0
        for i in range(period, len(units)):
            run = run + 1 if units[i] == units[i - period] else 0
            best = max(best, run // period + 1)
    return best


def language_confusion(
    languages: Iterable[str | None], records: Iterable[Record]
) -> dict[str, dict[str, int]]:
    """Counts by language of the reference, then by detected language; "None" = no speech."""
    table: dict[str, Counter[str]] = {}
    for language, record in zip(languages, records, strict=True):
        if record.error is None:
            table.setdefault(str(language), Counter())[str(record.language)] += 1
    return {name: dict(sorted(row.items())) for name, row in sorted(table.items())}


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, p50, p90, p95, p99 and maximum; None without values. Linear interpolation."""
    if not values:
        return None
    found = np.quantile(np.asarray(values), LATENCY_LEVELS)
    named = {
        f"p{level * 100:.0f}": float(q) for level, q in zip(LATENCY_LEVELS, found, strict=True)
    }
    return {"mean": float(np.mean(values)), **named, "max": float(max(values))}


def speed(records: Sequence[Record], price_per_hour: float | None) -> dict[str, Any]:
    """Audio and wall seconds, RTFx (audio seconds a wall second), latency, cost of an audio hour.

    `price_per_hour` is what the service costs while it runs, in any currency.
    """
    answered = [record for record in records if record.error is None]
    audio_s = sum(record.duration_s or 0.0 for record in answered)
    wall_s = wall_time_s(answered)
    rtfx = audio_s / wall_s if wall_s else None
    cost = price_per_hour / rtfx if price_per_hour is not None and rtfx else None
    return {
        "audio_s": audio_s,
        "wall_s": wall_s,
        "rtfx": rtfx,
        "latency_s": quantiles([r.latency_s for r in answered if r.latency_s is not None]),
        "ttft_s": quantiles([r.ttft_s for r in answered if r.ttft_s is not None]),
        "price_per_hour": price_per_hour,
        "cost_per_audio_hour": cost,
        "num_attempts": sum(record.num_attempts for record in records),
    }


def failures(records: Sequence[Record]) -> tuple[Share, dict[str, int]]:
    """Recordings that got no transcript, and how many by error code."""
    failed = Counter(record.error for record in records if record.error is not None)
    return Share(failed.total(), len(records)), dict(sorted(failed.items()))
