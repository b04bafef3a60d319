"""Whether confidence means anything: expected calibration error, ranking (AUROC), reliability bins.

The event predicted is "this recording has no error at all", since confidence is one number for a
whole recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.lib.errors import OptionError

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Recordings whose confidence lies in (low, high]; the first bin includes its low end."""

    low: float
    high: float
    num_clips: int
    mean_confidence: float | None
    accuracy: float | None  # share without any error


@dataclass(frozen=True, slots=True)
class Calibration:
    """All there is to say about confidence."""

    num_clips: int
    ece: float  # weighted mean of |accuracy - confidence| over the bins
    brier: float  # mean squared difference of confidence and outcome
    auroc: float | None  # None when all outcomes are the same
    bins: tuple[Bin, ...]


def calibrate(
    confidences: Sequence[float], correct: Sequence[bool], num_bins: int = NUM_BINS
) -> Calibration:
    """Compare confidences (0..1) with outcomes. Raises OptionError for none or out of range."""
    scores = np.asarray(confidences, dtype=np.float64)
    outcome = np.asarray(correct, dtype=np.float64)
    if scores.size == 0 or scores.size != outcome.size:
        raise OptionError(f"calibration: {scores.size} confidences for {outcome.size} outcomes")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise OptionError("calibration: a confidence lies outside 0..1")
    edges = np.linspace(0, 1, num_bins + 1)
    index = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, num_bins - 1)
    bins = []
    ece = 0.0
    for i in range(num_bins):
        inside = index == i
        size = int(inside.sum())
        confidence = float(scores[inside].mean()) if size else None
        accuracy = float(outcome[inside].mean()) if size else None
        bins.append(Bin(float(edges[i]), float(edges[i + 1]), size, confidence, accuracy))
        if confidence is not None and accuracy is not None:
            ece += size / scores.size * abs(accuracy - confidence)
    return Calibration(
        num_clips=scores.size,
        ece=ece,
        brier=float(np.mean((scores - outcome) ** 2)),
        auroc=auroc(scores.tolist(), [bool(o) for o in outcome]),
        bins=tuple(bins),
    )


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Chance that a positive outranks a negative (ties count half); None without both."""
    values = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(positive, dtype=bool)
    num_positive = int(labels.sum())
    num_negative = labels.size - num_positive
    if not num_positive or not num_negative:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    mean_rank = last_rank - (counts - 1) / 2  # ties share their mean rank
    rank_sum = float(mean_rank[inverse][labels].sum())
    wins = rank_sum - num_positive * (num_positive + 1) / 2
    return wins / (num_positive * num_negative)
