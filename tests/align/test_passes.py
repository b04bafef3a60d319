"""Two passes: never worse than promised on the evaluation set, and cuts only where it is sure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from predictor.align.model import Aligner
from predictor.align.passes import Marked, aligned, pauses
from predictor.align.words import places_of, split_words
from tests.align.scores import BEGIN, CARD, END, RESULTS, TINY, errors, summary, table

MEDIAN_MS, P95_MS = 60.0, 200.0


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner(TINY, device="cpu", dtype=torch.float32)


def test_word_times_are_as_exact_as_promised(aligner: Aligner) -> None:
    """On a part of the evaluation set, whose times come from the synthesizers."""
    names = ("00", "10")  # of each ten
    found = summary(errors(aligner, lambda name: Path(name).stem[-2:] in names))
    assert {"Chinese", "English"} <= found.keys()
    for language in ("Chinese", "English"):
        assert found[language]["words"] > 20
        assert found[language]["start_median_ms"] <= MEDIAN_MS, found
        assert found[language]["start_p95_ms"] <= P95_MS, found


def test_the_figures_of_the_whole_set_keep_the_promise() -> None:
    results = json.loads(RESULTS.read_text("utf-8"))["results"]
    for language in ("Chinese", "English"):
        assert results[language]["words"] > 1000
        assert results[language]["start_median_ms"] <= MEDIAN_MS
        assert results[language]["start_p95_ms"] <= P95_MS


def test_the_model_card_has_these_figures() -> None:
    card = CARD.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert card.strip() == table(json.loads(RESULTS.read_text("utf-8"))["results"])


class Recorder:
    """A model that says what it was told, and keeps what it was asked."""

    def __init__(self, max_audio_s: float, starts: list[float]) -> None:
        self.max_audio_s = max_audio_s
        self.starts = starts
        self.asked: list[Marked] = []

    def begin(self, batch: list[Marked]) -> Said:
        self.asked += batch
        times = [
            np.array([(start, start + 0.4) for start in self.starts[: len(item.words)]])
            for item in batch
        ]
        return Said(times)


class Said:
    """A pass that is over."""

    is_done = True

    def __init__(self, times: list[np.ndarray]) -> None:
        self._times = times

    def result(self) -> list[np.ndarray]:
        return self._times


def speech_with_pauses(*speech_s: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    parts = []
    for seconds in speech_s:
        parts += [rng.normal(0, 0.1, round(seconds * 16_000)), np.zeros(8_000)]
    return np.concatenate(parts[:-1]).astype(np.float32)


def test_a_long_piece_is_heard_in_parts_cut_in_pauses() -> None:
    samples = speech_with_pauses(5.0, 5.0)
    model = Recorder(32.0, [1.0, 3.0, 6.0, 8.0])
    [times] = aligned(model, [Marked(samples, ("a", "b", "c", "d"))])
    whole, first, second = model.asked
    assert (whole.words, first.words, second.words) == (
        ("a", "b", "c", "d"),
        ("a", "b"),
        ("c", "d"),
    )
    assert len(first.samples) == pytest.approx(5.25 * 16_000, abs=320)
    assert len(first.samples) + len(second.samples) == len(samples)
    at_s = len(first.samples) / 16_000
    np.testing.assert_allclose(times[:, 0], [1.0, 3.0, at_s + 1.0, at_s + 3.0], atol=1e-3)


def test_no_cut_where_a_word_may_lie_on_either_side() -> None:
    model = Recorder(32.0, [1.0, 3.0, 5.05, 8.0])  # the third word's middle is the pause's
    aligned(model, [Marked(speech_with_pauses(5.0, 5.0), ("a", "b", "c", "d"))])
    assert len(model.asked) == 1


@pytest.mark.parametrize(("max_audio_s", "speech_s"), [(400.0, (5.0, 5.0)), (32.0, (3.0, 3.0))])
def test_one_pass_is_enough(max_audio_s: float, speech_s: tuple[float, float]) -> None:
    """For an aligner of many classes, and for a short piece."""
    model = Recorder(max_audio_s, [1.0, 2.0, 4.0, 5.0])
    aligned(model, [Marked(speech_with_pauses(*speech_s), ("a", "b", "c", "d"))])
    assert len(model.asked) == 1


def test_silence_has_no_pauses() -> None:
    assert pauses(np.zeros(16_000, dtype=np.float32)) == []
    assert pauses(np.zeros(0, dtype=np.float32)) == []


def test_words_are_found_in_their_text() -> None:
    text = "At 7:30, don't  call 请关灯。"
    words = split_words(text, "English")
    found = [text[start:end] for start, end in places_of(words, text)]
    assert found == ["At", "7:30", "don't", "call", "请", "关", "灯"]
    assert places_of(["nowhere", "At"], text) == [(0, 0), (0, 2)]
