"""Scores: by hand, and equal to jiwer over whole texts and to the leaderboard's way of scoring."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_normalizer.english import EnglishTextNormalizer

from pipelines.lib.columns import formatting, keyword_errors
from pipelines.lib.normalize import Metric
from pipelines.lib.score import Counts, Kind, Pair, Span, align, score_all, total


def english(reference: str, hypothesis: str, name: str = "1") -> Pair:
    return Pair(name, reference, hypothesis, "English")


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("the cat sat", "the cat sat", Counts(3, 0, 0, 0)),
        ("the cat sat", "the bat sat down", Counts(2, 1, 0, 1)),
        ("the cat sat", "cat", Counts(1, 0, 2, 0)),
        ("the cat sat", "", Counts(0, 0, 3, 0)),
        ("The CAT, sat!", "the cat sat", Counts(3, 0, 0, 0)),
    ],
)
def test_by_hand(reference: str, hypothesis: str, counts: Counts) -> None:
    (score,) = score_all([english(reference, hypothesis)])
    assert (score.kind, score.counts) == (Kind.SPEECH, counts)


def test_characters_and_mixed_units_by_hand() -> None:
    chinese, mixed = score_all(
        [
            Pair("1", "今天天气很好", "今天天汽好", "Chinese"),
            Pair("2", "打开 the window", "打开窗 the windows", "Chinese+English"),
        ]
    )
    assert (chinese.metric, chinese.counts) == (Metric.CER, Counts(4, 1, 1, 0))
    assert (mixed.metric, mixed.counts) == (Metric.MER, Counts(3, 1, 0, 1))
    assert mixed.counts.rate == 2 / 4


def test_empty_references_are_defined() -> None:
    silence, noise, filler = score_all(
        [english("", ""), english(" ", "thank you"), english("um", "hello")]
    )
    assert (silence.kind, silence.num_hypothesis) == (Kind.NON_SPEECH, 0)
    assert (noise.kind, noise.counts) == (Kind.NON_SPEECH, Counts(insertions=2))
    assert noise.counts.rate is None
    assert filler.kind is Kind.UNSCORED
    (unknown,) = score_all([Pair("1", None, "hello", None)])
    assert unknown.kind is Kind.UNSCORED
    assert total([silence, noise, filler]) == Counts()


def test_corpus_rate_is_of_counts_not_a_mean_of_rates() -> None:
    scores = score_all([english("a", "b", "1"), english("c d e f g h i j k", "c d e f g h i j k")])
    assert total(scores).rate == 1 / 10


def test_spans_spell_out_the_alignment() -> None:
    (score,) = score_all([english("we will meet at noon", "we will at noon today")])
    assert score.spans == (
        Span("equal", ("we", "will"), ("we", "will")),
        Span("delete", ("meet",), ()),
        Span("equal", ("at", "noon"), ("at", "noon")),
        Span("insert", (), ("today",)),
    )


LEADERBOARD = [
    ('He said: "I won\'t pay $20 million."', "he said i will not pay twenty million dollars"),
    ("Mr. Brown's colour television", "mister brown is color televisions"),
    ("um so we were, uh, going home", "so we are going home"),
    ("in nineteen ninety-five, 3 of them", "in 1995 three of them"),
    ("The quick brown fox", ""),
    ("[noise] hmm", "mhm"),  # nothing is left: the leaderboard filters such references out
    ("okay", "okay okay okay"),
]


def test_equals_the_public_leaderboard() -> None:
    """The open ASR leaderboard normalises, drops empty references and takes WER of the corpus."""
    normalizer = EnglishTextNormalizer()
    kept = [(normalizer(r), normalizer(h)) for r, h in LEADERBOARD if normalizer(r).strip()]
    expected = jiwer.wer([r for r, _ in kept], [h for _, h in kept])
    scores = score_all([english(r, h, str(i)) for i, (r, h) in enumerate(LEADERBOARD)])
    assert total(scores).rate == pytest.approx(expected, abs=1e-12)
    assert sum(score.kind is Kind.SPEECH for score in scores) == len(kept) == 6


def test_cer_equals_jiwers() -> None:
    pairs = [("今天天气很好", "今天天汽好"), ("你好世界", "世界你好"), ("谢谢", "谢谢谢谢")]
    scores = score_all([Pair(r, r, h, "Chinese") for r, h in pairs])
    expected = jiwer.cer([r for r, _ in pairs], [h for _, h in pairs])
    assert total(scores).rate == pytest.approx(expected, abs=1e-12)


sentences = st.lists(st.sampled_from("abcde"), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
def test_alignments_are_shortest_and_spell_both_sides(
    pairs: list[tuple[list[str], list[str]]],
) -> None:
    for (reference, hypothesis), spans in zip(
        pairs, align([r for r, _ in pairs], [h for _, h in pairs]), strict=True
    ):
        assert [u for span in spans for u in span.reference] == reference
        assert [u for span in spans for u in span.hypothesis] == hypothesis
        edits = sum(
            max(len(s.reference), len(s.hypothesis)) for s in spans if s.operation != "equal"
        )
        assert edits == edit_distance(reference, hypothesis)


def edit_distance(left: list[str], right: list[str]) -> int:
    """The textbook recurrence, as an independent reference."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        last, row = row, [i]
        for j, b in enumerate(right, start=1):
            row.append(min(row[j - 1] + 1, last[j] + 1, last[j - 1] + (a != b)))
    return row[-1]


def test_a_mark_written_where_nobody_speaks_is_a_hallucination() -> None:
    scores = score_all([english("", text) for text in ("[music]", "(laughs)", "...", "", "thanks")])
    assert [s.hallucinated for s in scores] == [True, True, False, False, True]


def test_a_reference_of_punctuation_only_is_empty() -> None:
    scores = score_all([english(text, "") for text in ("...", "—", "?!", "um", "[music]")])
    assert [s.kind for s in scores] == [Kind.NON_SPEECH] * 3 + [Kind.UNSCORED] * 2


def test_the_best_of_several_references_counts() -> None:
    pair = Pair(
        "1", "see you at the quay", "see you at the key", "English", ("see you at the key",)
    )
    (score,) = score_all([pair])
    assert (score.counts.num_errors, score.chosen) == (0, "see you at the key")
    (score,) = score_all([Pair("1", "good day", "good day", "English", ("bad day",))])
    assert (score.counts.num_errors, score.chosen) == (0, None)


def test_compound_words_are_counted_apart_and_can_be_right() -> None:
    pair = Pair("1", "die Donau Dampfschifffahrt fährt", "die Donaudampfschifffahrt fuhr", "German")
    (strict,) = score_all([pair])
    assert (strict.counts.num_errors, strict.num_spacing) == (3, 0)  # beside a real error
    pair = Pair("1", "the white board is here", "the whiteboard is here", "English")
    (strict,) = score_all([pair])
    assert (strict.counts.num_errors, strict.num_spacing) == (2, 2)
    (lenient,) = score_all([pair], compounds=True)
    assert (lenient.counts.num_errors, lenient.counts.num_reference) == (0, 5)


def test_keywords_are_counted_where_they_were_said() -> None:
    texts = [
        ("Call Doctor Smith about KServe", "call doctor smith about k serve", "English"),
        ("KServe is up", "KServe is up", "English"),
        ("nothing here", "KServe here", "English"),
        ("我们用北京大学的数据", "我们用北京大雪的数据", "Chinese"),
    ]
    found = keyword_errors(texts, ["Dr. Smith", "KServe", "北京大学"], "default")
    assert found is not None
    assert (found["said"], found["missed"], found["added"]) == (4, 2, 1)
    assert found["rate"] == 2 / 4
    assert found["terms"][0] == {"term": "KServe", "said": 2, "missed": 1, "added": 1}
    assert keyword_errors(texts, [], "default") is None


def test_punctuation_and_case_are_columns_of_their_own() -> None:
    found = formatting([("Hello, Anna. How are you?", "hello anna. How are you")])
    assert found is not None
    assert found["case"] == 2 / 5
    assert (found["punctuation_recall"], found["punctuation_precision"]) == (1 / 3, 1)
    assert found["rate"] == (2 + 2) / 8  # two of case, two marks missing, of 5 words and 3 marks
    assert formatting([("hello anna", "Hello, Anna!")]) is None
