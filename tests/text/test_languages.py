from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

from predictor.errors import InvalidInput
from predictor.text.languages import LANGUAGES, join_texts, parse_language


def test_the_table_is_the_models() -> None:
    assert dict(LANGUAGES) == LANGUAGE_CODE_TO_NAME


@pytest.mark.parametrize(
    ("given_value", "name"),
    [
        ("en", "English"),
        ("EN", "English"),
        ("english", "English"),
        (" English ", "English"),
        ("en-US", "English"),
        ("zh_Hans", "Chinese"),
        ("zh-CN", "Chinese"),
        ("yue", "Cantonese"),
        ("", None),
        ("auto", None),
        (None, None),
    ],
)
def test_names_codes_and_tags(given_value: str | None, name: str | None) -> None:
    assert parse_language(given_value) == name


@pytest.mark.parametrize(
    "value", ["klingon", "e", "en glish", "xx-US", "-", "Englisch", "x" * 1000]
)
def test_unknown_languages_are_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_language(value, field="lang")
    assert caught.value.field == "lang"
    assert caught.value.value == value[:40]
    assert "zh (Chinese)" in caught.value.message
    assert len(caught.value.message) < 1000


@given(st.text(max_size=30))
def test_any_text_is_a_language_or_refused(value: str) -> None:
    try:
        name = parse_language(value)
    except InvalidInput:
        return
    assert name is None or name in LANGUAGES.values()


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["hello", "world"], "hello world"),
        (["打开灯", "好的"], "打开灯好的"),
        (["打开灯。", "hello"], "打开灯。hello"),
        (["안녕", "하세요"], "안녕 하세요"),
        (["one", "", "two"], "one two"),
        ([], ""),
        (["", ""], ""),
        (["ends ", "here"], "ends here"),
    ],
)
def test_joining_pieces(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined
