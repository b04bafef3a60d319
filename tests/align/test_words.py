"""Word splitting and monotonic repair, against transformers' processor of Qwen3-ASR."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3_asr import processing_qwen3_asr as reference

from predictor.align.words import LANGUAGES, monotonic, split_words
from predictor.errors import InvalidInput


@given(st.lists(st.integers(0, 40).map(lambda n: 80 * n), min_size=1, max_size=60))
def test_times_are_repaired_as_transformers_does(times: list[int]) -> None:
    ours = [int(time) for time in monotonic(times)]
    assert ours == reference._fix_timestamps(np.array(times, dtype=np.float32))


def test_no_times() -> None:
    assert monotonic([]) == []


@given(
    st.text(
        alphabet=st.one_of(st.characters(), st.sampled_from("天气 don't 12:30 né㐀")), max_size=40
    )
)
def test_words_are_split_as_transformers_does(text: str) -> None:
    expected = reference.Qwen3ASRProcessor.split_words_for_alignment(None, text, "English")
    assert split_words(text, "English") == expected


def test_languages_are_those_of_transformers() -> None:
    assert set(LANGUAGES) == reference.FORCED_ALIGNER_LANGUAGES


@pytest.mark.parametrize(
    ("language", "package", "text"),
    [
        ("Japanese", "nagisa", "今日は、いい天気ですね。電車で行きます"),
        ("Korean", "soynlp", "오늘은 날씨가 좋네요. 기차로 갑니다"),
    ],
)
def test_the_extra_splits_as_transformers_does(language: str, package: str, text: str) -> None:
    pytest.importorskip(package)
    expected = reference.Qwen3ASRProcessor.split_words_for_alignment(None, text, language)
    assert split_words(text, language) == expected
    assert len(expected) > 3


@pytest.mark.parametrize(("language", "package"), [("Japanese", "nagisa"), ("Korean", "soynlp")])
def test_a_missing_splitter_is_named(language: str, package: str) -> None:
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(InvalidInput, match=package):
            split_words("テスト", language)
    else:
        assert split_words("テスト 시험", language)
