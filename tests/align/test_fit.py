"""Whether a text belongs to what was heard: the first place where it does not."""

from __future__ import annotations

import pytest

from predictor.align.fit import Misfit, first_misfit
from predictor.align.words import split_words

HEARD = ["remind", "me", "to", "call", "my", "sister", "at", "half", "past", "seven"]


@pytest.mark.parametrize(
    "given",
    [
        "Remind me to call my sister at half past seven",
        "remind me too call my sisters at half past seven",  # spelled otherwise
        "remind me to phone my sister at half past seven",  # a word the recogniser got wrong
        "remind me to call my sister at 7:30",
        "um remind me to call my sister at half past seven",
    ],
)
def test_a_text_that_belongs(given: str) -> None:
    assert first_misfit(split_words(given, "English"), HEARD) is None


@pytest.mark.parametrize(
    ("given", "at", "begin"),
    [
        ("what a lovely garden you have here", 0, "what a lovely"),
        ("remind me to call my sister because nobody wants cheese", 6, "because nobody"),
        ("remind me the weather is fine my sister at half past seven", 2, "the weather"),
        ("remind me to call my sister at half past seven and buy some milk", 10, "and buy some"),
        ("banana", 0, "banana"),
    ],
)
def test_the_first_place_that_does_not(given: str, at: int, begin: str) -> None:
    misfit = first_misfit(given.split(), HEARD)
    assert misfit is not None
    assert misfit.at == at
    assert misfit.given.startswith(begin)


def test_speech_that_the_text_leaves_out() -> None:
    misfit = first_misfit(HEARD[:4], HEARD)
    assert misfit == Misfit(4, "", "my sister at half past seven")


def test_ideographs_are_compared_one_by_one() -> None:
    heard = list("请把客厅的灯关掉")
    assert first_misfit(list("请把客厅的等关掉"), heard) is None
    misfit = first_misfit(list("请把客厅打扫干净吧"), heard)
    assert misfit is not None
    assert misfit.at == 4
