"""Two reports on the same recordings, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.lib.bootstrap import Interval, difference_interval, mean_difference_interval
from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import Report, ScoringOptions
from pipelines.lib.score import Kind

MAX_CHANGED = 50  # recordings listed as most changed

Row = dict[str, Any]
RowPair = tuple[Row, Row]
Comparison = dict[str, Any]


def compare_reports(stable: Report, candidate: Report) -> Comparison:
    """Candidate against stable over the recordings that both answered.

    Raises OptionError when the reports are of different recordings or none was answered by both.
    """
    pairs = _pairs(stable, candidate)
    options = ScoringOptions(**candidate["scoring"])
    return {
        "stable": _head(stable),
        "candidate": _head(candidate),
        "num_pairs": len(pairs),
        "errors": error_difference(pairs, options),
        "by_metric": _by(pairs, "metric", options),
        "by_language": _by(pairs, "language", options),
        "hallucination": _share_difference(pairs, options),
        "confidence": _mean_difference(pairs, "confidence", options),
        "latency": _latencies(stable, candidate),
        "changed": _most_changed(pairs),
    }


def error_difference(pairs: Sequence[RowPair], options: ScoringOptions) -> dict[str, Any] | None:
    """Rates of both, and candidate minus stable with its paired interval; None without speech."""
    speech = [pair for pair in pairs if pair[0]["kind"] == Kind.SPEECH]
    if not speech:
        return None
    num_reference = [a["num_reference"] for a, _ in speech]
    errors = ([a["errors"] for a, _ in speech], [b["errors"] for _, b in speech])
    interval = difference_interval(
        errors, num_reference, [a["cluster"] for a, _ in speech], **_resampling(options)
    )
    units = sum(num_reference)
    return {
        "num_clips": len(speech),
        "num_reference": units,
        "stable": sum(errors[0]) / units,
        "candidate": sum(errors[1]) / units,
        **_interval_json(interval),
    }


def _pairs(stable: Report, candidate: Report) -> list[RowPair]:
    if stable["manifest_sha256"] != candidate["manifest_sha256"]:
        raise OptionError(
            f"compare: {stable['title']!r} and {candidate['title']!r} are of different manifests"
        )
    rows = {row["id"]: row for row in stable["clips"]}
    pairs = [(rows[row["id"]], row) for row in candidate["clips"]]
    answered = [pair for pair in pairs if pair[0]["error"] is None and pair[1]["error"] is None]
    if not answered:
        raise OptionError("compare: no recording was answered by both services")
    return answered


def _by(pairs: Sequence[RowPair], key: str, options: ScoringOptions) -> dict[str, Any]:
    names = sorted({str(a[key]) for a, _ in pairs})
    found = {
        name: error_difference([p for p in pairs if str(p[0][key]) == name], options)
        for name in names
    }
    return {name: difference for name, difference in found.items() if difference is not None}


def _share_difference(pairs: Sequence[RowPair], options: ScoringOptions) -> dict[str, Any] | None:
    """Share of non-speech recordings that got words: both, and the paired difference."""
    silent = [pair for pair in pairs if pair[0]["kind"] == Kind.NON_SPEECH]
    if not silent:
        return None
    first = [float(a["insertions"] > 0) for a, _ in silent]
    second = [float(b["insertions"] > 0) for _, b in silent]
    return _means(first, second, silent, options)


def _mean_difference(
    pairs: Sequence[RowPair], key: str, options: ScoringOptions
) -> dict[str, Any] | None:
    told = [p for p in pairs if p[0][key] is not None and p[1][key] is not None]
    if not told:
        return None
    return _means([a[key] for a, _ in told], [b[key] for _, b in told], told, options)


def _means(
    first: list[float], second: list[float], pairs: Sequence[RowPair], options: ScoringOptions
) -> dict[str, Any]:
    interval = mean_difference_interval(
        first, second, [a["cluster"] for a, _ in pairs], **_resampling(options)
    )
    return {
        "num_clips": len(pairs),
        "stable": sum(first) / len(first),
        "candidate": sum(second) / len(second),
        **_interval_json(interval),
    }


def _latencies(stable: Report, candidate: Report) -> dict[str, Any]:
    return {
        "stable": stable["summary"]["speed"]["latency_s"],
        "candidate": candidate["summary"]["speed"]["latency_s"],
    }


def _most_changed(pairs: Sequence[RowPair]) -> list[dict[str, Any]]:
    """The recordings whose number of errors changed most, worst for the candidate first."""
    changed = [(b["errors"] - a["errors"], a, b) for a, b in pairs if a["errors"] != b["errors"]]
    changed.sort(key=lambda entry: (-abs(entry[0]), -entry[0], entry[1]["id"]))
    kept = sorted(changed[:MAX_CHANGED], key=lambda entry: (-entry[0], entry[1]["id"]))
    return [
        {
            "id": a["id"],
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
        "errors": summary["errors"],
    }


def _interval_json(interval: Interval) -> dict[str, Any]:
    return {
        "difference": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
    }


def _resampling(options: ScoringOptions) -> dict[str, Any]:
    return {
        "num_resamples": options.num_resamples,
        "level": options.level,
        "seed": options.seed,
    }
