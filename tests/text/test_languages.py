from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

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
        ("zh-HK", "Cantonese"),
        ("zh-yue", "Cantonese"),
        ("zh_Hant_HK", "Cantonese"),
        ("zh-MO", "Cantonese"),
        ("yue-Hant", "Cantonese"),
        ("zh-TW", "Chinese"),
        ("zh-cmn-Hans-CN", "Chinese"),
        ("cmn", "Chinese"),
        ("zho", "Chinese"),
        ("Mandarin", "Chinese"),
        ("eng", "English"),
        ("tl", "Filipino"),
        ("tl-PH", "Filipino"),
        ("fre", "French"),
        ("fra", "French"),
        ("Franc\u0327ais", "French"),
        ("DEUTSCH", "German"),
        ("Bahasa Indonesia", "Indonesian"),
        ("tiếng  Việt", "Vietnamese"),
        ("粤语", "Cantonese"),
        ("中文", "Chinese"),
        ("日本語", "Japanese"),
        ("farsi", "Persian"),
        ("", None),
        ("auto", None),
        ("und", None),
        ("None", None),
        ("null", None),
        ("jp", "Japanese"),
        ("ja-JP", "Japanese"),
        ("jp-JP", "Japanese"),
        ("CN", "Chinese"),
        ("kr", "Korean"),
        ("Simplified Chinese", "Chinese"),
        ("Traditional Chinese", "Chinese"),
        ("Chinese (Simplified)", "Chinese"),
        ("Chinese (Cantonese)", "Cantonese"),
        ("繁體中文", "Chinese"),
        (None, None),
    ],
)
def test_names_codes_and_tags(given_value: str | None, name: str | None) -> None:
    assert parse_language(given_value) == name


@pytest.mark.parametrize(
    "value", ["klingon", "e", "en glish", "xx-US", "-", "Englisch", "iw", "ji", "tw", "x" * 1000]
)
def test_unknown_languages_are_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_language(value, field="lang")
    assert caught.value.field == "lang"
    assert caught.value.value == value[:40]
    assert "zh (Chinese)" in caught.value.message
    assert len(caught.value.message) < 1000


def test_names_and_codes_that_whisper_knows_mean_the_same_here() -> None:
    for name, code in TO_LANGUAGE_CODE.items():
        ours = LANGUAGES.get("fil" if code == "tl" else code)
        if ours is not None:
            assert parse_language(name) == ours, name
            assert parse_language(code) == ours, code


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
