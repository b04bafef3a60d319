"""Two reports on the same recordings, compared in pairs: each language on its own.

A recording that one version failed counts as unheard by it (all its words missing), so failures
cannot hide; one that both failed says nothing and is left out. Words and characters are never added
up. What the gate needs to judge again (sums by cluster) stays in the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipelines.lib.bootstrap import difference_interval, quantile_interval, quantile_ratio_interval
from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import Report, ScoringOptions
from pipelines.lib.intervals import (
    MIN_CLUSTERS,
    Estimate,
    PairedSums,
    interval_json,
    paired_sums,
)
from pipelines.lib.mapsswe import matched_pairs
from pipelines.lib.score import Kind

MAX_CHANGED = 50  # recordings listed as most changed
UNKNOWN_LANGUAGE = "unknown language"
P95 = 0.95

Row = dict[str, Any]
RowPair = tuple[Row, Row]
Comparison = dict[str, Any]


def compare_reports(stable: Report, candidate: Report, *, slices: Sequence[str] = ()) -> Comparison:
    """Candidate against stable over the recordings that at least one of them answered.

    `slices` names tags whose values are compared on their own too. Raises OptionError when the
    reports are of different recordings, none was answered, or a tag is in no recording.
    """
    every = _pairs(stable, candidate)
    pairs = [pair for pair in every if not (_failed(pair[0]) and _failed(pair[1]))]
    answered = [pair for pair in pairs if not (_failed(pair[0]) or _failed(pair[1]))]
    if not answered:
        raise OptionError("compare: no recording was answered by both services")
    options = ScoringOptions(**candidate["scoring"])
    by_metric = _groups(pairs, lambda row: [str(row["metric"])], options)
    return {
        "stable": _head(stable),
        "candidate": _head(candidate),
        "clustering": candidate["clustering"],
        "normalizer": options.normalizer,
        "num_pairs": len(answered),
        "num_failed_once": len(pairs) - len(answered),
        "num_failed_twice": len(every) - len(pairs),
        "errors": next(iter(by_metric.values())) if len(by_metric) == 1 else None,
        "by_metric": by_metric,
        "by_language": _groups(pairs, _language, options),
        "slices": {tag: _slice(pairs, tag, options) for tag in slices},
        "failures": _shares(every, _failed, options),
        "hallucination": _shares(_of_kind(answered, Kind.NON_SPEECH), _hallucinates, options),
        "repetition": _shares(answered, lambda row: bool(row["looping"]), options),
        "language": _shares(_with_language(answered), _wrong_language, options),
        "confidence": _confidence(answered, options),
        "calibration": _calibration(answered, options),
        "latency": _latencies(stable, candidate, answered, options),
        "changed": _most_changed(answered),
    }


def found_estimate(found: dict[str, Any], weight: float = 1.0) -> Estimate:
    """The estimate behind an entry of a comparison: candidate - `weight` × stable."""
    sums = np.asarray(found["sums"], dtype=np.float64)
    return PairedSums(sums, found["num_changed"], found["size"]).estimate(weight)


def error_difference(pairs: Sequence[RowPair], options: ScoringOptions) -> dict[str, Any] | None:
    """Rates of both, and candidate minus stable with its paired interval; None without speech."""
    speech = _of_kind(pairs, Kind.SPEECH)
    if not speech:
        return None
    units = [a["num_reference"] for a, _ in speech]
    errors = [[a["errors"] for a, _ in speech], [b["errors"] for _, b in speech]]
    found = _difference(errors[0], errors[1], units, speech, options)
    resampled = None
    if found["num_clusters"] >= MIN_CLUSTERS:
        interval = difference_interval(
            (errors[0], errors[1]),
            units,
            [a["cluster"] for a, _ in speech],
            num_resamples=options.num_resamples,
            level=options.level,
            seed=options.seed,
        )
        resampled = [interval.low, interval.high]
    return {
        **found,
        "num_reference": sum(units),
        "metric": speech[0][0]["metric"],
        "language": _language(speech[0][0])[0],
        "bootstrap": resampled,
        "mapsswe": matched_pairs(speech).as_json(),
    }


def _difference(
    first: Sequence[float],
    second: Sequence[float],
    units: Sequence[float],
    pairs: Sequence[RowPair],
    options: ScoringOptions,
    size: float | None = None,
) -> dict[str, Any]:
    paired = paired_sums(first, second, units, [a["cluster"] for a, _ in pairs], size=size)
    estimate = paired.estimate()
    total = paired.sums.sum(axis=1)
    return {
        "num_clips": len(pairs),
        "num_clusters": estimate.num_clusters,
        "stable": float(total[0] / total[2]),
        "candidate": float(total[1] / total[2]),
        "difference": estimate.value,
        **interval_json(estimate.interval(options.level)),
        "num_changed": paired.num_changed,
        "size": paired.size,
        "sums": paired.sums.tolist(),
    }


def _pairs(stable: Report, candidate: Report) -> list[RowPair]:
    if stable["manifest_sha256"] != candidate["manifest_sha256"]:
        raise OptionError(
            f"compare: {stable['title']!r} and {candidate['title']!r} are of different manifests"
        )
    rows = {row["id"]: row for row in stable["clips"]}
    return [(rows[row["id"]], row) for row in candidate["clips"]]


def _groups(
    pairs: Sequence[RowPair], names: Callable[[Row], Sequence[str]], options: ScoringOptions
) -> dict[str, Any]:
    groups: dict[str, list[RowPair]] = {}
    for pair in pairs:
        for name in names(pair[0]):
            groups.setdefault(name, []).append(pair)
    found = {name: error_difference(group, options) for name, group in sorted(groups.items())}
    return {name: difference for name, difference in found.items() if difference is not None}


def _language(row: Row) -> list[str]:
    return [row["scored_as"] or UNKNOWN_LANGUAGE]


def _slice(pairs: Sequence[RowPair], tag: str, options: ScoringOptions) -> dict[str, Any]:
    """By the tag's value, and by language within it where there are several."""
    if not any(tag in a["tags"] for a, _ in pairs):
        raise OptionError(f"slices: {tag!r} is a tag of no recording")
    several = len({_language(a)[0] for a, _ in _of_kind(pairs, Kind.SPEECH)}) > 1

    def names(row: Row) -> list[str]:
        values = row["tags"].get(tag, ())
        return [f"{value}, {_language(row)[0]}" if several else str(value) for value in values]

    return _groups(pairs, names, options)


def _shares(
    pairs: Sequence[RowPair], holds: Callable[[Row], bool], options: ScoringOptions
) -> dict[str, Any] | None:
    """Share of recordings of which something holds: both, and the paired difference."""
    if not pairs:
        return None
    first = [float(holds(a)) for a, _ in pairs]
    second = [float(holds(b)) for _, b in pairs]
    return _difference(first, second, [1.0] * len(pairs), pairs, options, size=1.0)


def _confidence(pairs: Sequence[RowPair], options: ScoringOptions) -> dict[str, Any] | None:
    """Of what both heard without an error: a version that hears better may well be surer."""
    right = [p for p in _of_kind(pairs, Kind.SPEECH) if p[0]["errors"] == p[1]["errors"] == 0]
    found = _means(right, lambda row: row["confidence"], options)
    return found if found is not None and found["num_clusters"] >= MIN_CLUSTERS else None


def _calibration(pairs: Sequence[RowPair], options: ScoringOptions) -> dict[str, Any] | None:
    """Brier scores: squared distance of confidence from "no error at all"."""

    def brier(row: Row) -> float | None:
        confidence = row["confidence"]
        return None if confidence is None else float((confidence - (row["errors"] == 0)) ** 2)

    return _means(_of_kind(pairs, Kind.SPEECH), brier, options)


def _means(
    pairs: Sequence[RowPair], value: Callable[[Row], float | None], options: ScoringOptions
) -> dict[str, Any] | None:
    both = [(value(a), value(b), (a, b)) for a, b in pairs]
    told = [(x, y, pair) for x, y, pair in both if x is not None and y is not None]
    if not told:
        return None
    first, second = [x for x, _, _ in told], [y for _, y, _ in told]
    # When a recording differs, then by about as much as recordings differ among themselves.
    size = max(float(np.std([*first, *second])), 0.01)
    return _difference(first, second, [1.0] * len(told), [p for *_, p in told], options, size)


def _latencies(
    stable: Report, candidate: Report, pairs: Sequence[RowPair], options: ScoringOptions
) -> dict[str, Any]:
    timed = [(a, b) for a, b in pairs if a["latency_s"] is not None and b["latency_s"] is not None]
    found: dict[str, Any] = {
        "stable": stable["summary"]["speed"]["latency_s"],
        "candidate": candidate["summary"]["speed"]["latency_s"],
        "num_clips": len(timed),
        "ratio": None,
        "p95": None,
        "interleaved": _interleaved(pairs),
        "drafted": any(row["drafted"] for pair in pairs for row in pair),
    }
    if len(timed) >= MIN_CLUSTERS:
        both = ([a["latency_s"] for a, _ in timed], [b["latency_s"] for _, b in timed])
        how = {"level": options.level, "num_resamples": options.num_resamples, "seed": options.seed}
        ratio = quantile_ratio_interval(*both, P95, **how)  # type: ignore[arg-type]
        alone = quantile_interval(both[1], P95, **how)  # type: ignore[arg-type]
        found["ratio"] = {"estimate": ratio.estimate, **interval_json(ratio)}
        found["p95"] = {"estimate": alone.estimate, **interval_json(alone)}
    return found


def _interleaved(pairs: Sequence[RowPair]) -> bool:
    """Whether both versions were asked in the same hours: the runs overlap by more than half."""
    spans = []
    for side in (0, 1):
        times = [pair[side].get("started_at") or 0.0 for pair in pairs]
        spans.append((min(times), max(times)))
    (begin, end), (first, last) = spans
    overlap = min(end, last) - max(begin, first)
    return overlap > 0.5 * max(end - begin, last - first)


def _most_changed(pairs: Sequence[RowPair]) -> list[dict[str, Any]]:
    """The recordings whose number of errors changed most, the candidate's regressions first."""
    changed = [(b["errors"] - a["errors"], a, b) for a, b in pairs if a["errors"] != b["errors"]]
    changed.sort(key=lambda entry: (-abs(entry[0]), -entry[0], entry[1]["id"]))
    kept = sorted(changed[:MAX_CHANGED], key=lambda entry: (-entry[0], entry[1]["id"]))
    return [
        {
            "id": a["id"],
            "audio": a["audio"],
            "language": a["scored_as"],
            "metric": a["metric"],
            "more_errors": delta,
            "reference": a["reference"],
            "stable": a["hypothesis"],
            "candidate": b["hypothesis"],
        }
        for delta, a, b in kept
    ]


def _head(report: Report) -> dict[str, Any]:
    summary = report["summary"]
    return {
        "title": report["title"],
        "service": report["service"],
        "num_clips": summary["num_clips"],
        "failures": summary["failures"],
        "hallucination": summary["hallucination"],
        "repetition": summary["repetition"],
        "by_metric": summary["by_metric"],
    }


def _of_kind(pairs: Sequence[RowPair], kind: Kind) -> list[RowPair]:
    return [pair for pair in pairs if pair[0]["kind"] == kind]


def _with_language(pairs: Sequence[RowPair]) -> list[RowPair]:
    """Speech whose language the manifest says, where both services tell what they detect."""
    speech = [pair for pair in _of_kind(pairs, Kind.SPEECH) if pair[0]["language"]]
    tells = all(any(pair[side]["detected"] for pair in speech) for side in (0, 1))
    return speech if tells else []


def _failed(row: Row) -> bool:
    return row["error"] is not None


def _hallucinates(row: Row) -> bool:
    return bool(row["hallucinated"])


def _wrong_language(row: Row) -> bool:
    return row["detected"] not in str(row["language"]).split("+")
