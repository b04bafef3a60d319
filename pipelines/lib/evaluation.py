"""From clips and records to a report: plain JSON that is the one source of every rendering.

The report keeps each recording's raw texts and counts, so that two reports can be compared, and
scored anew, without the service.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.lib.bootstrap import MIN_RESAMPLES
from pipelines.lib.calibration import calibrate
from pipelines.lib.clusters import Clustering, choose_clustering
from pipelines.lib.columns import formatting, keyword_errors
from pipelines.lib.confusions import confusions
from pipelines.lib.defaults import NUM_RESAMPLES
from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.intervals import LEVEL, rate_interval
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip, digest
from pipelines.lib.normalize import DEFAULT, guess_language
from pipelines.lib.results import (
    failures,
    hallucination,
    is_looping,
    language_confusion,
    repetition,
    speed,
)
from pipelines.lib.score import ClipScore, Counts, Kind, Pair, score_all, total
from pipelines.lib.slices import groups

VERSION = 2
MAX_SPEAKERS = 50  # listed, those with the highest rates

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """What a report is made with, beside the transcripts."""

    # What varies together: "auto" (speaker, else session, else clip), "clip", "speaker" or a tag.
    cluster_by: str = "auto"
    num_resamples: int = NUM_RESAMPLES
    level: float = LEVEL
    seed: int = 0
    price_per_hour: float | None = None  # of the service while it runs, any currency
    normalizer: str = DEFAULT  # one of normalize.NORMALIZERS, or "module:function"
    compounds: bool = False  # words that differ in their spaces only are right
    keywords: tuple[str, ...] = ()  # names and terms whose errors are counted apart

    def __post_init__(self) -> None:
        if self.num_resamples < MIN_RESAMPLES:
            raise OptionError(
                f"num_resamples {self.num_resamples} is below the least, {MIN_RESAMPLES}"
            )


@dataclass(frozen=True, slots=True)
class Scored:
    """A clip with all that is known of it."""

    clip: Clip
    record: Record
    score: ClipScore
    cluster: str

    @property
    def duration_s(self) -> float | None:
        """As the service measured it, else as the manifest says."""
        return self.record.duration_s or self.clip.duration_s


def build_report(
    clips: Sequence[Clip],
    records: Sequence[Record],
    options: ScoringOptions | None = None,
    *,
    title: str = "evaluation",
    service: dict[str, Any] | None = None,
) -> Report:
    """Score `records` (in the clips' order) against the clips' references.

    Raises OptionError when `cluster_by` names nothing that the clips have.
    """
    options = options or ScoringOptions()
    clustering = choose_clustering(clips, options.cluster_by)
    items = score_clips(clips, records, clustering, options)
    return {
        "version": VERSION,
        "title": title,
        "service": service or {},
        "manifest_sha256": digest(clips),
        "scoring": asdict(options),
        "clustering": clustering.as_json(),
        "summary": {**summarize(items, options), **_extra_columns(items, options)},
        "slices": _slices(items, options),
        "speakers": _speakers(items, options),
        "confused": confusions(item.score for item in items if item.record.error is None),
        "confusion": language_confusion(
            [item.clip.language for item in items], [item.record for item in items]
        ),
        "clips": [_row(item) for item in items],
    }


def write_report(path: Path, report: Report) -> None:
    """One JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, ensure_ascii=False, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """A report written by `write_report`. Raises ManifestError for any other file."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: is no report: {error}") from error
    if not isinstance(report, dict) or report.get("version") != VERSION:
        found = report.get("version") if isinstance(report, dict) else None
        raise ManifestError(
            f"{path}: is no report of version {VERSION} (found {found}); its journal can be scored "
            "anew with: python -m pipelines rescore"
        )
    return report


def score_clips(
    clips: Sequence[Clip],
    records: Sequence[Record],
    clustering: Clustering,
    options: ScoringOptions,
) -> list[Scored]:
    """Every clip with its record, its alignment and its cluster."""
    scores = score_all(
        [
            Pair(clip.id, clip.text, record.text, scoring_language(clip, record), clip.alternatives)
            for clip, record in zip(clips, records, strict=True)
        ],
        normalizer=options.normalizer,
        compounds=options.compounds,
    )
    return [
        Scored(clip, record, score, clustering.of(clip))
        for clip, record, score in zip(clips, records, scores, strict=True)
    ]


def summarize(items: Sequence[Scored], options: ScoringOptions) -> dict[str, Any]:
    """All numbers of a set of clips; failed requests count as failures and nowhere else."""
    answered = [item for item in items if item.record.error is None]
    scores = [item.score for item in answered]
    records = [item.record for item in items]
    failed, codes = failures(records)
    by_metric = {
        metric: errors_of([i for i in answered if i.score.metric == metric], options)
        for metric in sorted({s.metric.value for s in scores if s.kind is Kind.SPEECH})
    }
    return {
        "num_clips": len(items),
        "num_speech": sum(score.kind is Kind.SPEECH for score in scores),
        "num_unscored": sum(score.kind is Kind.UNSCORED for score in scores),
        "num_clusters": len({item.cluster for item in items}),
        # Words and characters are never added up: with both there is no common rate.
        "errors": errors_of(answered if len(by_metric) == 1 else [], options),
        "by_metric": by_metric,
        "num_spacing": sum(score.num_spacing for score in scores if score.kind is Kind.SPEECH),
        "hallucination": hallucination(scores).as_json(),
        "repetition": repetition(scores, [item.record for item in answered]).as_json(),
        "language_accuracy": _language_accuracy(answered),
        "failures": {**failed.as_json(), "codes": codes},
        "speed": speed(records, options.price_per_hour),
        "calibration": _calibration(answered),
        "num_stray_confidences": sum(
            item.record.confidence != _clipped(item.record.confidence) for item in answered
        ),
    }


def _extra_columns(items: Sequence[Scored], options: ScoringOptions) -> dict[str, Any]:
    """Of the whole set only: each aligns every recording anew."""
    spoken = [
        (item.clip.text or "", item.record.text, scoring_language(item.clip, item.record))
        for item in items
        if item.record.error is None and item.score.kind is Kind.SPEECH
    ]
    return {
        "formatting": formatting((reference, text) for reference, text, _ in spoken),
        "keywords": keyword_errors(spoken, options.keywords, options.normalizer),
    }


def errors_of(items: Iterable[Scored], options: ScoringOptions) -> dict[str, Any]:
    """Counts, rate and confidence interval over the clips with speech."""
    speech = [item for item in items if item.score.kind is Kind.SPEECH]
    counts = total(item.score for item in speech)
    interval = None
    if speech:
        found = rate_interval(
            [item.score.counts.num_errors for item in speech],
            [item.score.counts.num_reference for item in speech],
            [item.cluster for item in speech],
            level=options.level,
        )
        interval = None if found is None else [found.low, found.high]
    return {**_counts_json(counts), "rate": counts.rate, "interval": interval}


def _slices(items: Sequence[Scored], options: ScoringOptions) -> dict[str, dict[str, Any]]:
    """Summaries by language, duration and every tag that is a class."""
    found = groups([item.clip for item in items], [item.duration_s for item in items])
    return {
        name: {
            value: summarize([items[i] for i in rows], options) for value, rows in values.items()
        }
        for name, values in found.items()
    }


def _speakers(items: Sequence[Scored], options: ScoringOptions) -> list[dict[str, Any]]:
    """Errors by speaker, worst first; recordings of one speaker are taken as independent here."""
    by_speaker: dict[tuple[str, str], list[Scored]] = {}
    for item in items:
        if item.clip.speaker and item.record.error is None and item.score.kind is Kind.SPEECH:
            key = (item.clip.speaker, item.score.metric.value)
            by_speaker.setdefault(key, []).append(replace(item, cluster=item.clip.id))
    found = [
        {"speaker": speaker, "metric": metric, "num_clips": len(group), **errors_of(group, options)}
        for (speaker, metric), group in by_speaker.items()
    ]
    return sorted(found, key=lambda row: (-row["rate"], row["speaker"]))[:MAX_SPEAKERS]


def _row(item: Scored) -> dict[str, Any]:
    clip, record, score = item.clip, item.record, item.score
    return {
        "id": clip.id,
        "audio": clip.audio,
        "language": clip.language,
        "scored_as": scoring_language(clip, record),
        "detected": record.language,
        "reference": clip.text,
        "hypothesis": record.text,
        "kind": score.kind.value,
        "metric": score.metric.value,
        **_counts_json(score.counts),
        "operations": score.operations,
        "num_spacing": score.num_spacing,
        "hallucinated": score.hallucinated,
        "alternative": score.chosen,
        "confidence": _clipped(record.confidence),
        "duration_s": item.duration_s,
        "latency_s": record.latency_s,
        "ttft_s": record.ttft_s,
        "started_at": record.started_at,
        "drafted": bool(record.drafted),
        "looping": is_looping(score, record),
        "error": record.error,
        "error_message": record.error_message,
        "cluster": item.cluster,
        "tags": {tag: list(values) for tag, values in clip.tags.items()},
    }


def _counts_json(counts: Counts) -> dict[str, int]:
    return {**asdict(counts), "num_reference": counts.num_reference, "errors": counts.num_errors}


def scoring_language(clip: Clip, record: Record) -> str | None:
    """By the reference where there is one, so that two services are scored in the same units."""
    return clip.language or guess_language(clip.text or record.text)


def _language_accuracy(items: Sequence[Scored]) -> float | None:
    told = [i for i in items if i.clip.language and i.record.language is not None]
    if not told:
        return None
    right = sum(i.record.language in str(i.clip.language).split("+") for i in told)
    return right / len(told)


def _clipped(confidence: float | None) -> float | None:
    """Within 0..1: a service that says 1.0000001 has lost nothing by it."""
    return None if confidence is None else min(1.0, max(0.0, confidence))


def _calibration(items: Sequence[Scored]) -> dict[str, Any] | None:
    judged = [
        (_clipped(item.record.confidence), item.score.counts.num_errors == 0)
        for item in items
        if item.record.confidence is not None and item.score.kind is Kind.SPEECH
    ]
    if not judged:
        return None
    confidences, correct = zip(*judged, strict=True)
    return asdict(calibrate(confidences, correct))
