"""How many recordings an evaluation needs before it can decide: computed before any is recorded.

A difference of error rates varies by the errors that only one version makes, the more the longer
errors come in runs, and the more a speaker's recordings are alike. The interval's own rules
(Student's t, the rule of three, both chances of a wrong acceptance) are applied to what that model
expects.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from scipy import special

from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import Report
from pipelines.lib.expected import Expected
from pipelines.lib.intervals import MIN_CLUSTERS, Estimate, scale_that
from pipelines.lib.limits import Margin
from pipelines.lib.margins import MISS_AT_MARGIN, MISS_AT_TWICE
from pipelines.lib.score import Kind

MAX_CLIPS = 10_000_000


@dataclass(frozen=True, slots=True)
class Needed:
    """What it takes."""

    clips: int
    speakers: int
    hours: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def needed(margin: Margin, expected: Expected) -> Needed:
    """The least evaluation in which the gate accepts with the wanted chance.

    Raises OptionError when no number of recordings would: the difference is not below the margin.
    """
    limit = margin.absolute + margin.relative * expected.rate
    if expected.difference >= limit:
        raise OptionError(
            f"plan: a difference of {expected.difference * 100:+.2f} points is not below the "
            f"margin of {limit * 100:+.2f} points, so no number of recordings is enough"
        )
    least = MIN_CLUSTERS * expected.clips_per_speaker
    factor = scale_that(lambda scale: _accepts(expected, limit, least * scale))
    if factor is None or least * factor > MAX_CLIPS:
        raise OptionError(f"plan: more than {MAX_CLIPS} recordings would be needed")
    clips = math.ceil(least * factor - 1e-6)
    return Needed(
        clips, math.ceil(clips / expected.clips_per_speaker), clips * expected.clip_s / 3600
    )


def expected_of(report: Report, base: Expected) -> dict[str, Expected]:
    """What a report teaches, by language: rate, length of a recording, bursts of errors."""
    found: dict[str, Expected] = {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in report["clips"]:
        if row["kind"] == Kind.SPEECH and row["error"] is None:
            groups.setdefault(str(row["scored_as"]), []).append(row)
    for language, rows in sorted(groups.items()):
        errors = [row["errors"] for row in rows]
        words = sum(row["num_reference"] for row in rows) / len(rows)
        mean = sum(errors) / len(rows)
        spread = sum((e - mean) ** 2 for e in errors) / max(1, len(rows) - 1)
        seconds = [row["duration_s"] for row in rows if row["duration_s"]]
        found[language] = replace(
            base,
            rate=mean / words,
            words=words,
            clip_s=sum(seconds) / len(seconds) if seconds else base.clip_s,
            burst=max(1.0, spread / mean) if mean else base.burst,
            clips_per_speaker=max(1.0, len(rows) / len({row["cluster"] for row in rows})),
        )
    return found


def _accepts(expected: Expected, limit: float, clips: float) -> bool:
    """Whether both bounds lie below their limits although chance raises the estimate."""
    one_sided = 2 * expected.rate * (1 - expected.shared) + abs(expected.difference)
    per_clip = one_sided * expected.burst / expected.words
    alike = 1 + (expected.clips_per_speaker - 1) * expected.speaker_share
    variance = per_clip * alike / clips
    changed = clips * (1 - math.exp(-one_sided * expected.words / expected.burst))
    speakers = clips / expected.clips_per_speaker
    luck = float(special.ndtri(expected.power)) * math.sqrt(variance)
    estimate = Estimate(
        value=expected.difference + luck,
        variance=variance,
        df=max(1.0, speakers - 1),
        skewness=0.0,
        step=max(1.0, expected.burst) / (clips * expected.words),
        num_changed=changed,
        num_clusters=int(speakers + 1e-6),
    )
    return estimate.below(limit, MISS_AT_MARGIN) and estimate.below(2 * limit, MISS_AT_TWICE)
