"""One sequence: its limits, where it ends, and the repetition guard against a plain count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.engine.options import EngineOptions
from predictor.engine.repetition import RepetitionGuard
from predictor.engine.sequence import Limits, Sequence
from predictor.errors import InvalidInput
from predictor.types import EngineRequest, TokenChunk

LIMITS = Limits(max_model_len=100, vocab_size=50, eos_token_ids=frozenset({48, 49}))
REQUEST = EngineRequest(
    request_id="r",
    samples=np.zeros(16_000, np.float32),  # 13 audio tokens
    tokens_before=(1, 2, 3),
    tokens_after=(4, 5),
    max_new_tokens=10,
)


def sequence(request: EngineRequest = REQUEST, options: EngineOptions | None = None) -> Sequence:
    return Sequence(request, LIMITS, options or EngineOptions())


def test_counts_of_a_fresh_sequence() -> None:
    fresh = sequence()
    assert (fresh.num_audio_tokens, fresh.num_prompt_tokens, fresh.length) == (13, 18, 18)
    assert fresh.audio_s == 1.0


@pytest.mark.parametrize(
    ("change", "field", "limit"),
    [
        ({"samples": np.zeros((2, 16_000), np.float32)}, "audio", "[num_samples >= 1]"),
        ({"samples": np.zeros(0, np.float32)}, "audio", "[num_samples >= 1]"),
        ({"samples": np.array([0.1, np.nan], np.float32)}, "audio", 1e4),
        ({"samples": np.array([0.1, -np.inf], np.float32)}, "audio", 1e4),
        ({"samples": np.array([0.1, 2e4], np.float32)}, "audio", 1e4),
        ({"samples": np.zeros(16_000 * 8, np.float32)}, "audio", 99),
        ({"max_new_tokens": 0}, "max_new_tokens", 1),
        ({"samples": np.zeros(16_000 * 5, np.float32), "max_new_tokens": 31}, "max_new_tokens", 30),
        ({"tokens_before": (50,)}, "prompt", 50),
        ({"tokens_after": (-1,)}, "prompt", 50),
        ({"tokens_after": ()}, "prompt", 1),
    ],
)
def test_what_can_never_run_is_refused_with_field_and_limit(
    change: dict[str, object], field: str, limit: object
) -> None:
    with pytest.raises(InvalidInput) as error:
        sequence(replace(REQUEST, **change))  # type: ignore[arg-type]
    assert (error.value.field, error.value.limit) == (field, limit)


def test_the_longest_request_that_fits_is_taken() -> None:
    request = replace(REQUEST, samples=np.zeros(16_000 * 5, np.float32), max_new_tokens=30)
    assert sequence(request).max_new_tokens == 30


def test_the_answer_is_capped_by_the_seconds_of_audio() -> None:
    options = EngineOptions(max_tokens_per_audio_s=3.5, min_token_cap=2)
    assert sequence(options=options).max_new_tokens == 4
    short = replace(REQUEST, samples=np.zeros(160, np.float32))
    assert sequence(short, options).max_new_tokens == 2


def test_tokens_come_out_as_they_went_in() -> None:
    running = sequence()
    assert running.extend([7], [-0.5]) == TokenChunk((7,), (-0.5,))
    assert running.extend([8, 9], [-0.1, -0.2]) == TokenChunk((8, 9), (-0.1, -0.2))
    assert running.tokens == [7, 8, 9]
    assert running.length == 21


def test_an_end_token_ends_it_and_is_left_out_with_all_that_follows() -> None:
    running = sequence()
    chunk = running.extend([7, 49, 8], [-0.5, -0.1, -0.2])
    assert chunk == TokenChunk((7,), (-0.5,), "stop", num_prompt_tokens=18, num_audio_tokens=13)
    assert running.tokens == [7]


def test_the_last_allowed_token_ends_it() -> None:
    running = sequence(replace(REQUEST, max_new_tokens=2))
    chunk = running.extend([7, 8, 9], [0.0, 0.0, 0.0])
    assert (chunk.token_ids, chunk.finish) == ((7, 8), "length")


def test_an_end_token_in_the_last_place_is_a_stop() -> None:
    running = sequence(replace(REQUEST, max_new_tokens=2))
    assert running.extend([7, 48], [0.0, 0.0]).finish == "stop"


def test_a_loop_ends_it() -> None:
    running = sequence(options=EngineOptions(max_repeats=3))
    chunk = running.extend([1, 2, 1, 2, 1, 2, 1, 2, 1, 2], [0.0] * 10)
    assert (len(chunk.token_ids), chunk.finish) == (8, "repetition")


def repeats_too_often(tokens: list[int], max_period: int, max_repeats: int) -> bool:
    """The definition, by counting: the tail is one pattern more than `max_repeats` times."""
    for period in range(1, max_period + 1):
        tail = tokens[-period * (max_repeats + 1) :]
        if len(tail) == period * (max_repeats + 1) and tail == tail[:period] * (max_repeats + 1):
            return True
    return False


@given(
    tokens=st.lists(st.integers(0, 2), max_size=80),
    pattern=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    times=st.integers(0, 8),
    max_repeats=st.integers(1, 5),
)
def test_the_guard_equals_the_definition(
    tokens: list[int], pattern: list[int], times: int, max_repeats: int
) -> None:
    text = tokens + pattern * times + tokens[:3]
    guard = RepetitionGuard(5, max_repeats)
    for end, token in enumerate(text, start=1):
        assert guard.add(token) == repeats_too_often(text[:end], 5, max_repeats)


@given(
    steps=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=12),
    is_streamed=st.booleans(),
)
def test_what_is_handed_out_is_all_there_is(steps: list[list[int]], is_streamed: bool) -> None:
    """Streamed: chunk by chunk. Else the first ones, and all others with the end."""
    request = replace(REQUEST, max_new_tokens=60, is_streamed=is_streamed)
    running = sequence(request, EngineOptions(max_repeats=1000))
    handed_out = []
    chunks = [running.extend(tokens, [-float(t) for t in tokens]) for tokens in steps]
    chunks.append(running.extend([48], [0.0]))
    running.tokens.clear()
    for chunk in chunks:
        running.tokens += chunk.token_ids
        if (due := running.due(chunk)) is not None:
            handed_out.append(due)
    tokens = [token for chunk in handed_out for token in chunk.token_ids]
    assert tokens == [token for step in steps for token in step]
    assert [-lp for chunk in handed_out for lp in chunk.logprobs] == tokens
    assert [chunk.finish for chunk in handed_out[:-1]] == [None] * (len(handed_out) - 1)
    assert handed_out[-1].finish == "stop"
    assert len(handed_out) == (len(steps) + 1 if is_streamed else 2)


@given(st.lists(st.integers(0, 2), max_size=60), st.lists(st.integers(0, 2), max_size=60))
def test_a_guard_that_begins_with_tokens_is_one_that_they_were_added_to(
    first: list[int], rest: list[int]
) -> None:
    begun, added = RepetitionGuard(5, 3), RepetitionGuard(5, 3)
    begun.begin(tuple(first))
    for token in first:
        added.add(token)
    assert [begun.add(token) for token in rest] == [added.add(token) for token in rest]
