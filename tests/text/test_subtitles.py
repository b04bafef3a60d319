from __future__ import annotations

from predictor.text.subtitles import to_srt, to_vtt
from predictor.types import Segment


def _segment(i: int, start_s: float, end_s: float, text: str) -> Segment:
    return Segment(i, start_s, end_s, text, "English", 0.9, -0.1, "stop")


SEGMENTS = [
    _segment(0, 0.0, 1.5, "turn on\nthe light"),
    _segment(1, 1.5, 2.0, "  "),
    _segment(2, 3661.0007, 3662.9996, "a < b & c --> d"),
]


def test_srt() -> None:
    assert to_srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,500\nturn on the light\n"
        "\n"
        "2\n01:01:01,001 --> 01:01:03,000\na < b & c --> d\n"
    )


def test_vtt() -> None:
    assert to_vtt(SEGMENTS) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nturn on the light\n"
        "\n"
        "01:01:01.001 --> 01:01:03.000\na &lt; b &amp; c --&gt; d\n"
    )


def test_nothing_said() -> None:
    assert to_srt([]) == ""
    assert to_vtt([]) == "WEBVTT\n"
