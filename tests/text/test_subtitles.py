"""Subtitles that a reader can follow; read back with the packages `srt` and `webvtt-py`."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.text.cue_lines import SubtitleOptions, width
from predictor.text.subtitles import cues_of, to_srt, to_vtt
from predictor.types import Segment, Word


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
    assert to_srt([]) == to_srt([_segment(0, 0.0, 2.0, "")]) == ""
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


EVAL = Path(__file__).parents[1] / "data" / "eval"


def _spoken(name: str) -> Segment:
    """A recording of the evaluation set with the synthesizer's own times of words."""
    rows = map(json.loads, (EVAL / "words.jsonl").read_text("utf-8").splitlines())
    row = next(row for row in rows if row["audio"] == f"{name}.opus")
    joiner = " " if row["language"] == "English" else ""
    text = joiner.join(word["word"] for word in row["words"])
    words = tuple(
        Word(word["word"].strip(".,?!。，？！"), word["start_s"], word["end_s"], 0.9)
        for word in row["words"]
    )
    end_s = row["words"][-1]["end_s"] + 0.2
    segment = _segment(0, 0.0, end_s, text)
    return replace(segment, words=tuple(word for word in words if word.text))


@pytest.mark.parametrize("name", ["en-long-001", "en-long-006", "zh-long-002", "zh-long-005"])
def test_cues_keep_the_times_of_their_words(name: str) -> None:
    segment = _spoken(name)
    assert segment.words is not None
    starts = {word.start_s for word in segment.words}
    ends = sorted(word.end_s for word in segment.words)
    cues = cues_of([segment])
    limit = 36 if name.startswith("zh") else 42
    assert len(cues) > 3
    for cue, following in zip(cues, [*cues[1:], None], strict=True):
        assert cue.start_s in starts
        assert all(width(line) <= limit for line in cue.lines)
        assert len(cue.lines) <= 2
        assert cue.end_s - cue.start_s <= 7.0
        said_until = max(end for end in ends if following is None or end <= following.start_s)
        assert cue.end_s >= min(said_until, cue.start_s + 7.0)
        if following is not None:
            assert cue.end_s <= following.start_s
    assert sum(cue.end_s - cue.start_s < 1.0 for cue in cues) <= 1
    assert _bare("".join(line for cue in cues for line in cue.lines)) == _bare(segment.text)
    ended = [cue for cue in cues if cue.lines[-1][-1] in ".?!。？！"]
    assert len(ended) >= len(cues) // 2  # most cues end with their sentence


def test_no_cue_spans_a_gap_between_words() -> None:
    words = [("So", 0.0, 0.3), ("wait", 0.4, 0.8), ("and", 2.0, 2.2), ("see", 2.9, 3.2)]
    segment = replace(
        _segment(0, 0.0, 3.4, "So wait, and see."), words=tuple(Word(*w, 0.9) for w in words)
    )
    cues = cues_of([segment])
    assert [cue.lines for cue in cues] == [("So wait,",), ("and see.",)]
    assert cues[0].end_s <= 2.0 == cues[1].start_s


def test_punctuation_that_opens_stands_before_its_word() -> None:
    text = "He said “go” (twice). 他说：“去吧！”她走了。"
    parts = ["He", "said", "go", "twice", *"他说去吧她走了"]
    words = tuple(Word(word, i * 1.5, i * 1.5 + 0.3, 0.9) for i, word in enumerate(parts))
    cues = cues_of([replace(_segment(0, 0.0, 20.0, text), words=words)])
    assert [line for cue in cues for line in cue.lines] == [
        "He", "said", "“go”", "(twice).", "他", "说：", "“去", "吧！”", "她", "走", "了。",
    ]  # fmt: skip


def test_channels_do_not_cut_each_others_cues_short() -> None:
    long = replace(_segment(0, 0.0, 5.0, "Hello, how are you all today?"), channel=0)
    inside = replace(_segment(1, 1.0, 1.2, "Hi."), channel=1)
    shown = [(cue.start_s, cue.end_s) for cue in cues_of([long, inside])]
    assert shown == [(0.0, 5.0), (1.0, 2.0)]


LONG = "Donaudampfschifffahrtsgesellschaftskapitaen"
CJK = ["中", "字。", "한국어", "テスト"]
WORD = st.sampled_from(["a", "word", "sentence.", "clause,", *CJK, "שָׁלוֹם", "مرحبا،", LONG])


@given(said=st.lists(st.tuples(WORD, st.floats(0, 3), st.floats(0.01, 9)), min_size=1, max_size=50))
@settings(max_examples=60, deadline=None)
def test_any_words_are_shown_once_in_order_within_the_limits(
    said: list[tuple[str, float, float]],
) -> None:
    at_s, words = 0.0, []
    for text, gap_s, long_s in said:
        start_s, at_s = round(at_s + gap_s, 3), round(at_s + gap_s + long_s, 3)
        words.append(Word(text.strip(".,。،"), start_s, at_s, 0.9))
    text = " ".join(text for text, _, _ in said)
    segment = replace(_segment(0, 0.0, at_s, text), words=tuple(words))
    cues = cues_of([segment])
    assert _bare("".join(line for cue in cues for line in cue.lines)) == _bare(text)
    for cue, following in pairwise(cues):
        assert cue.start_s < cue.end_s <= following.start_s
    for cue in cues:
        assert len(cue.lines) <= 2
        assert all(0 < width(line) <= 42 for line in cue.lines)
        assert cue.end_s - cue.start_s <= 7.0 + 1e-9
    assert len(list(srt.parse(to_srt([segment])))) == len(cues)
