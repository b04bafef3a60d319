"""Subtitle files from segments: SubRip and WebVTT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from predictor.types import Segment


def to_srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered cues, comma before the milliseconds. Segments without text are left out."""
    cues = [
        f"{number}\n{_times(s, ',')}\n{_one_line(s.text)}\n"
        for number, s in enumerate(_spoken(segments), start=1)
    ]
    return "\n".join(cues)


def to_vtt(segments: Sequence[Segment]) -> str:
    """WebVTT. Segments without text are left out; markup characters are escaped."""
    cues = [f"{_times(s, '.')}\n{_escape(_one_line(s.text))}\n" for s in _spoken(segments)]
    return "\n".join(["WEBVTT\n", *cues])


def _spoken(segments: Iterable[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.text.strip()]


def _one_line(text: str) -> str:
    # A blank line would end the cue.
    return " ".join(text.split())


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _times(segment: Segment, decimal_mark: str) -> str:
    start, end = _timestamp(segment.start_s, decimal_mark), _timestamp(segment.end_s, decimal_mark)
    return f"{start} --> {end}"


def _timestamp(seconds: float, decimal_mark: str) -> str:
    millis = max(0, round(seconds * 1000))
    hours, millis = divmod(millis, 3_600_000)
    minutes, millis = divmod(millis, 60_000)
    secs, millis = divmod(millis, 1000)
    return f"{hours:02d}:{minutes:02d}:{secs:02d}{decimal_mark}{millis:03d}"
