"""The matched-pairs sentence-segment word error test, as NIST's sclite computes it.

Both alignments of an utterance are cut where both systems have two words right in a row; the errors
of each piece are compared in pairs and their mean difference is tested against the normal
distribution (Gillick and Cox, 1989). It asks "are they different?", not "is it within a margin?",
and stands beside the gate's interval for readers who know it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIN_GOOD = 2  # words right in both that end a segment
CORRECT, SUBSTITUTED, DELETED, INSERTED = "C", "S", "D", "I"


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """The test's outcome; `mean` is errors of the second system minus the first, a segment."""

    num_segments: int
    mean: float
    std: float | None
    z: float | None  # None when it cannot be formed: under two segments, or all alike
    p: float | None  # two-sided

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def matched_pairs(
    pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> MatchedPairs:
    """Test two systems by their reports' rows of the same recordings (key `operations`)."""
    gaps: list[int] = []
    for first, second in pairs:
        found = segments(first["operations"], second["operations"])
        gaps += [b - a for a, b in found]
    return compare_gaps(gaps)


def segments(first: str, second: str) -> list[tuple[int, int]]:
    """Errors of both systems in each segment of one utterance.

    `first` and `second` are alignments with the same reference, a letter a step: C, S, D, I.
    """
    sides = [_by_reference_word(operations) for operations in (first, second)]
    if len(sides[0]) != len(sides[1]):  # each was aligned with another reference: one segment
        return [(_num_errors(first), _num_errors(second))]
    steps = list(zip(*sides, strict=True))
    found: list[tuple[int, int]] = []
    errors = [0, 0]
    inside, num_good = False, 0
    for (inserted_1, right_1), (inserted_2, right_2) in steps:
        if inserted_1 or inserted_2:
            inside, num_good = True, 0
        errors = [errors[0] + inserted_1, errors[1] + inserted_2]
        if right_1 is None or right_2 is None:  # behind the last word: only insertions
            continue
        if not (right_1 and right_2):
            inside, num_good = True, 0
            errors = [errors[0] + (not right_1), errors[1] + (not right_2)]
        elif inside:
            num_good += 1
            if num_good == MIN_GOOD:
                found.append((errors[0], errors[1]))
                errors, inside, num_good = [0, 0], False, 0
    if inside:
        found.append((errors[0], errors[1]))
    return found


def compare_gaps(gaps: Sequence[int]) -> MatchedPairs:
    """The statistic of differences by segment."""
    number = len(gaps)
    mean = sum(gaps) / number if number else 0.0
    if number < 2:
        return MatchedPairs(number, mean, None, None, None)
    std = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (number - 1))
    if std == 0:
        return MatchedPairs(number, mean, std, None, None)
    z = mean / (std / math.sqrt(number))
    return MatchedPairs(number, mean, std, z, math.erfc(abs(z) / math.sqrt(2)))


def _num_errors(operations: str) -> int:
    return len(operations) - operations.count(CORRECT)


def _by_reference_word(operations: str) -> list[tuple[int, bool | None]]:
    """Insertions before each reference word and whether it is right; last: behind the last word."""
    steps: list[tuple[int, bool | None]] = []
    inserted = 0
    for operation in operations:
        if operation == INSERTED:
            inserted += 1
        else:
            steps.append((inserted, operation == CORRECT))
            inserted = 0
    return [*steps, (inserted, None)]
