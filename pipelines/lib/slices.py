"""Which groups of recordings a report shows apart: few enough, and none of a handful of clips.

Values that are numbers ("snr-29-db", "42") and hold few clips each are folded into ranges; other
small ones are gathered under one name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from pipelines.lib.manifest import Clip

DURATION_EDGES_S = (0, 2, 5, 10, 20, 30, 60)
MAX_VALUES = 50  # a tag with more values is an identifier, not a slice
MIN_CLIPS = 12  # a smaller slice shows chance
NUMBER = re.compile(r"^(\D*?)((?:(?<![^\W_])-)?\d+(?:\.\d+)?)(\D*)$")  # a hyphen is no sign
OTHERS = "others"


def groups(
    clips: Sequence[Clip], durations_s: Sequence[float | None]
) -> dict[str, dict[str, list[int]]]:
    """Numbers of the clips by slice and value: language, duration and every tag that is a class."""
    keys: dict[str, Callable[[int], Sequence[str]]] = {
        "language": lambda i: [str(clips[i].language)],
        "duration": lambda i: [duration_bucket(durations_s[i])],
    }
    for tag in sorted({tag for clip in clips for tag in clip.tags}):
        keys[tag] = lambda i, tag=tag: clips[i].tags.get(tag, ())  # type: ignore[misc]
    found: dict[str, dict[str, list[int]]] = {}
    for name, values_of in keys.items():
        by_value: dict[str, list[int]] = {}
        for i in range(len(clips)):
            for value in values_of(i):
                by_value.setdefault(value, []).append(i)
        folded = by_value if name in ("language", "duration") else fold(by_value)
        if folded and len(folded) <= MAX_VALUES:
            found[name] = dict(sorted(folded.items()))
    return found


def duration_bucket(duration_s: float | None) -> str:
    """The name of the bucket that a duration falls in, such as "05-10 s"."""
    if duration_s is None:
        return "unknown"
    for low, high in pairwise(DURATION_EDGES_S):
        if low <= duration_s < high:
            return f"{low:02d}-{high:02d} s"
    return f"{DURATION_EDGES_S[-1]} s and more"


def fold(by_value: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Small groups put together; as they are when all are small, or none is."""
    small = {value: found for value, found in by_value.items() if len(found) < MIN_CLIPS}
    if len(small) < 2 or sum(map(len, small.values())) < MIN_CLIPS:
        return dict(by_value)
    kept = {value: found for value, found in by_value.items() if value not in small}
    families: dict[tuple[str, str], dict[float, list[int]]] = {}
    rest: dict[str, list[int]] = {}
    for value, found in small.items():
        number = NUMBER.match(value)
        if number is None:
            rest[value] = found
        else:
            families.setdefault((number[1], number[3]), {})[float(number[2])] = found
    for (before, after), numbers in families.items():
        kept |= _ranges(before, after, numbers)
    if len(rest) == 1 or not kept:
        return {**kept, **rest}
    if rest:
        kept[f"{OTHERS} ({len(rest)} values)"] = _joined(rest.values())
    return kept


def _ranges(before: str, after: str, numbers: Mapping[float, list[int]]) -> dict[str, list[int]]:
    """Neighbouring numbers gathered until each range holds MIN_CLIPS clips."""
    ranges: list[list[float]] = [[]]
    for number in sorted(numbers):
        ranges[-1].append(number)
        if len(_joined(numbers[n] for n in ranges[-1])) >= MIN_CLIPS:
            ranges.append([])
    if len(ranges) > 1 and len(_joined(numbers[n] for n in ranges[-1])) < MIN_CLIPS:
        tail = ranges.pop()
        ranges[-1] += tail
    named: dict[str, list[int]] = {}
    for members in ranges:
        if members:
            first, last = f"{members[0]:g}", f"{members[-1]:g}"
            span = first if first == last else f"{first} to {last}"
            named[f"{before}{span}{after}"] = _joined(numbers[n] for n in members)
    return named


def _joined(lists: object) -> list[int]:
    return sorted({i for each in lists for i in each})  # type: ignore[attr-defined]
