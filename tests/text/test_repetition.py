"""The clean-up against transformers' own, and the tracker against the clean-up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3_asr.processing_qwen3_asr import _detect_and_fix_repetitions

from predictor.text.repetition import RepeatTracker, remove_repeats

# Few letters and long repeats, so that the interesting cases are common.
_piece = st.tuples(st.text("ab 好", min_size=1, max_size=22), st.integers(1, 45)).map(
    lambda pair: pair[0] * pair[1]
)
_texts = st.lists(_piece, max_size=4).map("".join)


@given(_texts)
def test_equals_transformers(text: str) -> None:
    assert remove_repeats(text) == _detect_and_fix_repetitions(text)


@given(st.text(max_size=200))
def test_equals_transformers_on_any_text(text: str) -> None:
    assert remove_repeats(text) == _detect_and_fix_repetitions(text)


def test_known_cases() -> None:
    assert remove_repeats("") == ""
    assert remove_repeats("a" * 20) == "a" * 20
    assert remove_repeats("a" * 21) == "a"
    assert remove_repeats("oh no " * 30 + "stop") == "oh no stop"
    assert remove_repeats("好的" * 25) == "好的"
    assert remove_repeats("oh no " * 19) == "oh no " * 19


def test_time_is_linear_enough_for_a_day_of_speech() -> None:
    # The original takes hours for this; a quadratic search would not come back in the test's time.
    text = "".join(f"{i} " for i in range(200_000))
    assert remove_repeats(text) == text


@given(_texts, st.data())
def test_a_settled_prefix_never_changes(text: str, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(text)))
    tracker = RepeatTracker()
    for char in text[:length]:
        tracker.feed(char)
    settled = text[: tracker.num_settled]
    assert remove_repeats(text).startswith(settled)


def test_ordinary_text_settles_at_once() -> None:
    tracker = RepeatTracker()
    for char in "turn on the kitchen light":
        tracker.feed(char)
    assert tracker.num_settled >= len("turn on the kitchen ligh")
    assert not tracker.frozen
