"""Subtitle files as subtitlers make them: short cues of two lines, SubRip and WebVTT.

Where it is known when each word was said, cues keep its times (`cue_words`). Elsewhere a segment's
text is divided at punctuation and by length, and its time among the cues by how much is written in
each: nobody speaks in a segment's pauses, which are short. No cue spans two segments.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from predictor.text.cue_lines import SubtitleOptions, lines_of, width
from predictor.text.cue_words import parts_by_words
from predictor.types import Segment


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown at a time."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


# Behind these a cue may end, best first: a sentence, a clause, a word.
_BREAKS = (
    re.compile(r"[.!?…]['\"’”)]*\s+|[。！？][」』”’）]*"),
    re.compile(r"[,;:]\s+|[，、；：]|\s[—–-](?=\s)"),
    re.compile(r"\s+"),
)


def to_srt(segments: Sequence[Segment], options: SubtitleOptions | None = None) -> str:
    """SubRip: numbered cues, comma before the milliseconds. Segments without text are left out."""
    cues = [
        f"{number}\n{_times(cue, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues_of(segments, options), start=1)
    ]
    return "\n".join(cues)


def to_vtt(segments: Sequence[Segment], options: SubtitleOptions | None = None) -> str:
    """WebVTT. Segments without text are left out; markup characters are escaped."""
    cues = [
        f"{_times(cue, '.')}\n" + "\n".join(_escape(line) for line in cue.lines) + "\n"
        for cue in cues_of(segments, options)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def cues_of(segments: Iterable[Segment], options: SubtitleOptions | None = None) -> list[Cue]:
    """The cues of `segments`, in order of time; none overlaps the next of its channel."""
    options = options or SubtitleOptions()
    by_channel: dict[int | None, list[Cue]] = {}
    for segment in segments:
        by_channel.setdefault(segment.channel, []).extend(_cues(segment, options))
    shown = []
    for cues in filter(None, by_channel.values()):
        ends = [*(cue.start_s for cue in cues[1:]), math.inf]
        shown += [_shown_longer(cue, end_s, options) for cue, end_s in zip(cues, ends, strict=True)]
    return sorted(shown, key=lambda cue: cue.start_s)


def _cues(segment: Segment, options: SubtitleOptions) -> Iterator[Cue]:
    text = " ".join(segment.text.split())  # a blank line would end the cue
    said = parts_by_words(text, segment.words or (), options)
    if said and all(len(lines_of(part.text, options)) <= options.max_lines for part in said):
        for part in said:
            yield Cue(part.start_s, part.end_s, tuple(lines_of(part.text, options)))
    elif text:
        yield from _cues_by_width(segment, text, options)


def _cues_by_width(segment: Segment, text: str, options: SubtitleOptions) -> Iterator[Cue]:
    duration_s = max(segment.end_s - segment.start_s, 0.001)
    parts = _parts(text, duration_s, options)
    widths = [max(1, width(part)) for part in parts]
    position, total = 0, sum(widths)
    for part, columns in zip(parts, widths, strict=True):
        start_s = segment.start_s + duration_s * position / total
        position += columns
        end_s = segment.start_s + duration_s * position / total
        yield Cue(start_s, end_s, tuple(lines_of(part, options)))


def _parts(text: str, duration_s: float, options: SubtitleOptions) -> list[str]:
    """The texts of a segment's cues: each fits on its lines and into the longest time."""
    total = max(width(text), 1)
    parts = _divided(text, max(1, int(total / duration_s * options.max_s * 0.999)), options)
    shortest_s = min(map(width, parts)) / total * duration_s
    if len(parts) > 1 and shortest_s < options.min_s:  # a word left over: divide evenly instead
        even = _divided(text, total * 115 // (len(parts) * 100), options, _BREAKS[2:])
        if min(map(width, even)) / total * duration_s > shortest_s:
            return even
    return parts


def _divided(
    text: str,
    by_time: int,
    options: SubtitleOptions,
    breaks: Sequence[re.Pattern[str]] = _BREAKS,
) -> list[str]:
    pieces = [text]
    for pattern in breaks:
        pieces = [part for piece in pieces for part in _packed(piece, pattern, by_time, options)]
    parts = [part.strip() for piece in pieces for part in _chopped(piece, by_time, options)]
    return [part for part in parts if part]


def _fits(text: str, by_time: int, options: SubtitleOptions) -> bool:
    text = text.strip()
    return width(text) <= by_time and len(lines_of(text, options)) <= options.max_lines


def _packed(
    text: str, pattern: re.Pattern[str], by_time: int, options: SubtitleOptions
) -> list[str]:
    """`text` divided at the pattern, as many pieces together as fit; pieces may still not fit."""
    if _fits(text, by_time, options):
        return [text]
    cuts = [0, *(match.end() for match in pattern.finditer(text)), len(text)]
    packed: list[str] = []
    for start, end in pairwise(cuts):
        piece = text[start:end]
        if packed and _fits(packed[-1] + piece, by_time, options):
            packed[-1] += piece
        elif piece:
            packed.append(piece)
    return packed


def _chopped(text: str, by_time: int, options: SubtitleOptions) -> Iterator[str]:
    """`text`, in which there is no break left, by characters."""
    while not _fits(text, by_time, options) and len(text) > 1:
        size = next(
            n for n in range(len(text) - 1, 0, -1) if n == 1 or _fits(text[:n], by_time, options)
        )
        while size < len(text) and unicodedata.combining(text[size]):
            size += 1
        yield text[:size]
        text = text[size:]
    if text:
        yield text


def _shown_longer(cue: Cue, next_s: float, options: SubtitleOptions) -> Cue:
    """Until it can be read, if nothing follows so soon."""
    needed_s = sum(map(width, cue.lines)) / options.max_columns_per_s
    wanted_s = cue.start_s + min(max(options.min_s, needed_s), options.max_s)
    end_s = max(cue.end_s, min(wanted_s, next_s))
    return Cue(cue.start_s, end_s, cue.lines)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _times(cue: Cue, decimal_mark: str) -> str:
    start, end = _timestamp(cue.start_s, decimal_mark), _timestamp(cue.end_s, decimal_mark)
    return f"{start} --> {end}"


def _timestamp(seconds: float, decimal_mark: str) -> str:
    millis = max(0, round(seconds * 1000))
    hours, millis = divmod(millis, 3_600_000)
    minutes, millis = divmod(millis, 60_000)
    secs, millis = divmod(millis, 1000)
    return f"{hours:02d}:{minutes:02d}:{secs:02d}{decimal_mark}{millis:03d}"
