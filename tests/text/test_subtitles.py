"""Subtitles that a reader can follow; read back with the packages `srt` and `webvtt-py`."""

from __future__ import annotations

import io

import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.text.subtitles import SubtitleOptions, cues_of, to_srt, to_vtt, width
from predictor.types import Segment


def _segment(i: int, start_s: float, end_s: float, text: str) -> Segment:
    return Segment(i, start_s, end_s, text, "English", 0.9, -0.1, "stop")


SEGMENTS = [
    _segment(0, 0.0, 1.5, "turn on\nthe light"),
    _segment(1, 1.5, 2.0, "  "),
    _segment(2, 3661.0007, 3662.9996, "a < b & c --> d"),
]
ENGLISH = (
    "Good morning, how are you today? Book a train from Berlin to Vienna on March third, and "
    "remind me to call my sister at half past seven; she will not be at home before that, since "
    "her lessons end at six and the bus takes a whole hour. What is the weather like in Paris?"
)
CHINESE = (
    "请把客厅的灯关掉。明天早上北京的天气怎么样？提醒我八点半给我妈妈打电话，然后去超市买牛奶、面包和鸡蛋。"
    * 2
)


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


def test_a_long_segment_becomes_cues_that_can_be_read() -> None:
    cues = cues_of([_segment(0, 10.0, 28.0, ENGLISH)])
    assert len(cues) > 2
    assert cues[0].start_s == 10.0
    assert cues[-1].end_s == pytest.approx(28.0)
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(width(line) <= 42 for line in cue.lines)
        assert 1.0 <= cue.end_s - cue.start_s <= 7.0
    assert cues[0].lines == ("Good morning, how are you today?",)  # a cue ends with its sentence
    assert " ".join(line for cue in cues for line in cue.lines) == ENGLISH


def test_chinese_lines_have_18_characters_and_never_begin_with_a_comma() -> None:
    cues = cues_of([_segment(0, 0.0, 25.0, CHINESE)])
    lines = [line for cue in cues for line in cue.lines]
    assert all(len(line) <= 18 for line in lines)
    assert not any(line[0] in "，。、？" for line in lines)
    assert "".join(lines) == CHINESE


def test_no_cue_spans_a_gap_and_short_ones_are_shown_longer_where_there_is_one() -> None:
    cues = cues_of([_segment(0, 1.0, 1.4, "Yes."), _segment(1, 40.0, 40.5, "No."),
                    _segment(2, 40.7, 41.5, "Well.")])  # fmt: skip
    assert [(cue.start_s, cue.end_s) for cue in cues] == [(1.0, 2.0), (40.0, 40.7), (40.7, 41.7)]


def test_limits_are_the_callers() -> None:
    options = SubtitleOptions(max_columns=20, max_lines=1, max_s=3.0)
    cues = cues_of([_segment(0, 0.0, 18.0, ENGLISH)], options)
    assert all(len(cue.lines) == 1 and width(cue.lines[0]) <= 20 for cue in cues)
    assert all(cue.end_s - cue.start_s <= 3.0 for cue in cues)


def test_right_to_left_is_written_as_it_is_read_and_marks_take_no_room() -> None:
    arabic = "صباح الخير، كيف حالك اليوم؟"
    [cue] = cues_of([_segment(0, 0.0, 3.0, arabic)])
    assert cue.lines == (arabic,)
    assert width("e\u0301") == 1


WORDS = st.lists(
    st.sampled_from(["a", "word", "sentence.", "clause,", "<b>", "&amp;", "-->", "中文，", "字。",
                     "Donaudampfschifffahrtsgesellschaftskapitaen" * 3, "한국어", "テスト"]),
    min_size=1, max_size=60,
)  # fmt: skip


@given(words=WORDS, duration_s=st.floats(0.3, 30.0), start_s=st.floats(0, 80_000))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_back_whole(words: list[str], duration_s: float, start_s: float) -> None:
    text = " ".join(words)
    segment = _segment(0, start_s, start_s + duration_s, text)
    cues = cues_of([segment])
    for cue in cues:
        assert len(cue.lines) <= 2
        assert all(0 < width(line) <= 42 for line in cue.lines)
    subtitles = list(srt.parse(to_srt([segment])))
    captions = list(webvtt.from_buffer(io.StringIO(to_vtt([segment]))))
    assert len(subtitles) == len(captions) == len(cues)
    assert _bare("".join(s.content for s in subtitles)) == _bare(text)
    unescaped = "".join(c.raw_text for c in captions)
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        unescaped = unescaped.replace(entity, char)
    assert _bare(unescaped) == _bare(text)
    for subtitle, caption in zip(subtitles, captions, strict=True):
        assert subtitle.start.total_seconds() == pytest.approx(caption.start_in_seconds, abs=1)


def _bare(text: str) -> str:
    return "".join(text.split())
