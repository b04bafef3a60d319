"""The words that are confused most: what a reader of a report looks at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipelines.lib.score import ClipScore, Kind

MAX_LISTED = 25


def confusions(scores: Iterable[ClipScore]) -> dict[str, list[Any]]:
    """Pairs substituted, units deleted and inserted with their counts, most frequent first."""
    pairs: Counter[tuple[str, str]] = Counter()
    deleted: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    for score in scores:
        if score.kind is not Kind.SPEECH:
            continue
        for span in score.spans:
            if span.operation == "substitute":
                pairs.update(zip(span.reference, span.hypothesis, strict=True))
            elif span.operation == "delete":
                deleted.update(span.reference)
            elif span.operation == "insert":
                inserted.update(span.hypothesis)
    return {
        "substituted": [[a, b, n] for (a, b), n in _most(pairs)],
        "deleted": [[unit, n] for unit, n in _most(deleted)],
        "inserted": [[unit, n] for unit, n in _most(inserted)],
    }


def _most(counter: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_LISTED]
