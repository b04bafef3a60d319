"""Normalisation: equal to Whisper's where that is the standard, and right by hand for Chinese."""

from __future__ import annotations

import pytest
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from pipelines.lib.normalize import Metric, guess_language, metric_for, normalize, units

ENGLISH = [
    "Hello, World! It's 5 o'clock.",
    "Mr. Smith isn't in; we've one hundred and twenty-three dollars.",
    "um, uh, the colour of grey metre [noise] (laughs)",
    "$3.50 and twenty percent in nineteen ninety-eight",
]


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_whispers(text: str) -> None:
    assert normalize(text, "English") == EnglishTextNormalizer()(text).strip()


@pytest.mark.parametrize("text", ["Ça va, élève ! [rire]", "Grüße, Straße: 3,5", "¿Qué tal?"])
def test_other_languages_are_whispers_basic(text: str) -> None:
    assert normalize(text, "French") == BasicTextNormalizer()(text).strip()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("一百二十三", "123"),
        ("二零二三年三月五日", "2023年3月5日"),
        ("百分之五十", "50%"),
        ("三点五", "3.5"),
        ("漢語語音識別", "汉语语音识别"),
        ("ＡＢＣ，你好！", "abc你好"),
        ("你 好", "你好"),
        ("你好（世界）", "你好世界"),
        ("[音乐]你好", "你好"),
    ],
)
def test_chinese_spellings_of_one_utterance_are_equal(left: str, right: str) -> None:
    found = [units(normalize(text, "Chinese"), Metric.CER) for text in (left, right)]
    assert found[0] == found[1]


def test_numerals_that_are_no_number_stay() -> None:
    assert normalize("千万别去", "Chinese") == "千万别去"


def test_marks_are_kept_where_they_are_vowels_and_dropped_where_optional() -> None:
    assert normalize("नमस्ते, दुनिया!", "Hindi") == "नमस्ते दुनिया"
    assert normalize("สวัสดีครับ", "Thai") == "สวัสดีครับ"
    assert normalize("مَرْحَبًا", "Arabic") == normalize("مرحبا", "Arabic") == "مرحبا"


def test_metrics() -> None:
    for language in ("Chinese", "Cantonese", "Japanese", "Korean", "Thai"):
        assert metric_for(language) is Metric.CER
    assert metric_for("Chinese+English") is Metric.MER
    assert metric_for("English") is metric_for("Hindi") is metric_for(None) is Metric.WER


def test_units() -> None:
    assert units("good morning", Metric.WER) == ["good", "morning"]
    assert units("你好 吗", Metric.CER) == ["你", "好", "吗"]
    mixed = normalize("我用 KServe部署 Model 123。", "Chinese+English")
    assert units(mixed, Metric.MER) == ["我", "用", "kserve", "部", "署", "model", "123"]


@pytest.mark.parametrize(
    ("text", "language"),
    [("你好", "Chinese"), ("日本語です", "Japanese"), ("안녕", "Korean"), ("ครับ", "Thai")],
)
def test_guess_by_script(text: str, language: str) -> None:
    assert guess_language(text) == language
    assert guess_language("hello") is None
