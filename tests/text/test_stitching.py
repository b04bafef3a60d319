"""Texts of two pieces that overlap become one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.text.joining import Piece, join_pieces
from predictor.text.languages import join_texts
from predictor.text.output import ParsedOutput
from predictor.text.stitching import stitch, words_within
from predictor.types import AudioEnd, Usage, Word

MANIFEST = Path(__file__).parents[1] / "data" / "eval" / "manifest.jsonl"
TEXTS = [json.loads(line)["text"] for line in MANIFEST.read_text("utf-8").splitlines()]


def joined(before: str, after: str, share: float = 0.1) -> str:
    found = stitch(before, after, share, share)
    return join_texts([found.before, found.after])


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("Put the kettle on and call my sis", "all my sister at seven.",
         "Put the kettle on and call my sister at seven."),
        ("He came, he saw", "saw, he left.", "He came, he saw, he left."),
        ("We met on Monday", "met on Monday. Then we ate.", "We met on Monday. Then we ate."),
        ("the weather in Paris is", "Paris is cold", "the weather in Paris is cold"),
        ("明天早上北京的天气怎", "京的天气怎么样？", "明天早上北京的天气怎么样？"),
        ("Don't go there alo", "o there alone, don't", "Don't go there alone, don't"),
        ("a b c", "", "a b c"),
        ("", "a b c", "a b c"),
        ("Wait", "Wait", "Wait"),
    ],
)  # fmt: skip
def test_the_word_that_a_cut_divides_is_said_once_and_whole(
    before: str, after: str, text: str
) -> None:
    assert joined(before, after) == text


def test_texts_with_nothing_in_common_are_cut_by_time() -> None:
    before = "one two three four five six seven eight nine xx"
    after = "yy ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
    assert joined(before, after) == (before[:-3] + after[2:])


def units(text: str) -> list[str]:
    return re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+(?:['’]\w+)*", text)


@given(
    pair=st.lists(st.sampled_from(TEXTS), min_size=2, max_size=2, unique=True),
    place=st.floats(0.3, 0.7),
    common=st.integers(3, 8),
    torn=st.tuples(st.text("abcde", max_size=3), st.text("abcde", max_size=3)),
)
@settings(max_examples=200, deadline=None)
def test_sentences_of_the_evaluation_set_come_back_whole(
    pair: list[str], place: float, common: int, torn: tuple[str, str]
) -> None:
    """Cut anywhere, with some words in both and a torn one at each end."""
    text = join_texts(pair)
    spans = [match.span() for match in re.finditer(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+", text)]
    middle = round(place * len(spans))
    first, last = max(0, middle - common), min(len(spans), middle + common)
    before = text[: spans[last - 1][1]] + (" " + torn[0] if last < len(spans) else "")
    after = (torn[1] + " " if first else "") + text[spans[first][0] :]
    share = 0.5 * (last - first) / len(spans)
    assert units(joined(before, after, share)) == units(text)


def _piece(text: str, start_s: float, end_s: float, **more: object) -> Piece:
    names = text.replace(".", "").split()
    step = (end_s - start_s) / max(1, len(names))
    words = tuple(
        Word(name, start_s + i * step, start_s + (i + 1) * step, 0.9)
        for i, name in enumerate(names)
    )
    parsed = ParsedOutput(text, "English", 0.9, -0.1, len(names), 0)
    return Piece(
        start_s,
        end_s,
        parsed,
        "stop",
        Usage(1, 1, 1),
        (),
        words=words,
        **more,  # type: ignore[arg-type]
    )


def test_an_answer_has_each_word_once_and_its_segments_meet_at_the_cut() -> None:
    pieces = [
        _piece("we went to the mar", 0.0, 30.0, continues=True),
        _piece("to the market and bo", 28.0, 58.0, overlap_s=2.0, continues=True),
        _piece("and bought bread.", 56.0, 70.0, overlap_s=2.0),
        _piece("Then home.", 75.0, 77.0),
    ]
    answer = join_pieces(pieces, AudioEnd(80.0), language=None, with_words=True)
    assert answer.text == "we went to the market and bought bread. Then home."
    assert [(s.start_s, s.end_s) for s in answer.segments] == [
        (0.0, 29.0), (29.0, 57.0), (57.0, 70.0), (75.0, 77.0),
    ]  # fmt: skip
    assert answer.words is not None
    assert " ".join(word.text for word in answer.words) == answer.text.replace(".", "")


def test_words_of_a_part() -> None:
    text = "to be or not to be"
    words = [Word(name, float(i), i + 1.0, None) for i, name in enumerate(text.split())]
    assert [w.start_s for w in words_within(text, words, 6, len(text))] == [2.0, 3.0, 4.0, 5.0]


def test_pieces_that_share_a_pause_keep_their_texts_and_meet_behind_it() -> None:
    pieces = [
        _piece("We went to the market.", 0.0, 20.1),
        _piece("The market was closed.", 20.0, 25.0, overlap_s=0.1),
    ]
    answer = join_pieces(pieces, AudioEnd(25.0), language=None, with_words=True)
    assert answer.text == "We went to the market. The market was closed."
    assert [(s.start_s, s.end_s) for s in answer.segments] == [(0.0, 20.1), (20.1, 25.0)]
    assert answer.words is not None
    assert [word.start_s for word in answer.words][5] == 20.0
