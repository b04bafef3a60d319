"""Reading answers: against transformers' parser, in one go and token by token."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from predictor.text.languages import LANGUAGES
from predictor.text.output import OutputParser, ParsedOutput
from predictor.text.tokenizer import TextTokenizer

_names = st.sampled_from([*LANGUAGES.values(), "None"])
_words = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40)
_loops = st.tuples(_words, st.text("ab好 ", min_size=1, max_size=6), st.integers(1, 30)).map(
    lambda t: t[0] + t[1] * t[2]
)


def _read(
    tokenizer: TextTokenizer, ids: list[int], language: str | None = None, chunk: int = 1
) -> tuple[list[str], ParsedOutput]:
    parser = OutputParser(tokenizer, language)
    pieces = []
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        parser.add(part, [-0.1] * len(part))
        pieces.append(parser.certain())
    rest, parsed = parser.finish()
    return [*pieces, rest], parsed


@settings(deadline=None)
@given(name=_names, text=st.one_of(_words, _loops), chunk=st.integers(1, 7))
def test_equals_transformers_and_streams_the_same_text(
    processor: Any, tokenizer: TextTokenizer, name: str, text: str, chunk: int
) -> None:
    ids = processor.tokenizer.encode(f"language {name}<asr_text>{text}")
    expected = processor.decode(ids, return_format="parsed")
    pieces, parsed = _read(tokenizer, ids, chunk=chunk)
    assert parsed.text == expected["transcription"]
    assert parsed.language == expected["language"]
    assert "".join(pieces) == parsed.text


@settings(deadline=None)
@given(text=st.one_of(_words, _loops))
@example(text="\uf900")  # another character once it is normalised
def test_tokens_lie_where_their_characters_are(
    processor: Any, tokenizer: TextTokenizer, text: str
) -> None:
    text = unicodedata.normalize("NFC", text)  # as the tokenizer does
    ids = processor.tokenizer.encode(f"language English<asr_text>{text}")
    parser = OutputParser(tokenizer, None)
    parser.add(ids, [-0.01 * place for place in range(len(ids))])
    _, parsed = parser.finish()
    spans = parser.token_spans(parsed.text)
    covered = {place for start, end, _ in spans for place in range(start, end)}
    assert covered == set(range(len(parsed.text)))
    if parsed.num_repeats_removed == 0:
        assert sum(end - start for start, end, _ in spans) >= len(parsed.text)
        for start, end, logprob in spans:
            token = tokenizer.token_bytes(ids[round(-logprob / 0.01)])
            assert parsed.text[start:end].encode() in token or token in text.encode()


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 400), max_size=60), forced=st.sampled_from([None, "English"]))
def test_random_tokens_never_leak_markers_or_halves(
    tokenizer: TextTokenizer, ids: list[int], forced: str | None
) -> None:
    pieces, parsed = _read(tokenizer, ids, forced)
    assert "".join(pieces) == parsed.text
    assert "<asr_text>" not in parsed.text
    assert "<|" not in parsed.text or any(b"<" in tokenizer.token_bytes(i) for i in ids)
    assert 0.0 <= parsed.confidence <= 1.0


def test_a_marker_spelled_in_letters_does_not_leak(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode_plain("one <asr_<asr_text>text> two <asr")
    pieces, parsed = _read(tokenizer, ids, "English")
    assert parsed.text == "one  two <asr"
    assert "".join(pieces) == parsed.text
    assert not any("<asr_text>" in piece for piece in pieces)


def test_half_characters_wait_for_their_other_half(tokenizer: TextTokenizer) -> None:
    single_bytes = {tokenizer.token_bytes(i): i for i in range(300)}
    ids = [single_bytes[bytes([byte])] for byte in "灯".encode()]
    pieces, parsed = _read(tokenizer, ids, "Chinese")
    assert pieces == ["", "", "灯", ""]
    assert parsed.text == "灯"
    _, cut = _read(tokenizer, ids[:2], "Chinese")
    assert cut.text == ""


def test_nothing_is_shown_before_the_marker(processor: Any, tokenizer: TextTokenizer) -> None:
    ids = processor.tokenizer.encode("language English<asr_text>hello")
    marker = ids.index(tokenizer.asr_text)
    pieces, _ = _read(tokenizer, ids)
    assert pieces[: marker + 1] == [""] * (marker + 1)
    for cut in range(1, marker + 1):
        _, parsed = _read(tokenizer, ids[:cut])
        assert parsed.text == ""


def test_confidence_counts_the_words_alone(processor: Any, tokenizer: TextTokenizer) -> None:
    ids = processor.tokenizer.encode("language English<asr_text>hello there")
    num_header = ids.index(tokenizer.asr_text) + 1
    logprobs = [-5.0] * num_header + [-0.2] * (len(ids) - num_header)
    parser = OutputParser(tokenizer, None)
    parser.add(ids, logprobs)
    _, parsed = parser.finish()
    assert parsed.confidence == pytest.approx(math.exp(-0.2))
    assert parsed.avg_logprob == pytest.approx(-0.2)


def test_confidence_of_silence_is_that_of_the_header(
    processor: Any, tokenizer: TextTokenizer
) -> None:
    ids = processor.tokenizer.encode("language None<asr_text>")
    parser = OutputParser(tokenizer, None)
    parser.add(ids, [-0.5] * len(ids))
    _, parsed = parser.finish()
    assert (parsed.text, parsed.language) == ("", None)
    assert parsed.confidence == pytest.approx(math.exp(-0.5))


def test_removed_repeats_are_counted_and_lose_their_vote(tokenizer: TextTokenizer) -> None:
    once = tokenizer.encode_plain("oh no ")
    parser = OutputParser(tokenizer, "English")
    for i in range(30):
        parser.add(once, [-1.0 if i == 0 else -0.001] * len(once))
    end = tokenizer.encode_plain("stop")
    parser.add(end, [-1.0] * len(end))
    _, parsed = parser.finish()
    assert parsed.text == "oh no stop"
    assert parsed.num_repeats_removed == len("oh no " * 29)
    assert parsed.confidence == pytest.approx(math.exp(-1.0))


def test_no_tokens_at_all(tokenizer: TextTokenizer) -> None:
    parser = OutputParser(tokenizer, "English")
    rest, parsed = parser.finish()
    assert (rest, parsed.text, parsed.confidence) == ("", "", 0.0)
    assert parsed.language == "English"
