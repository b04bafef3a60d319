"""What a prefill's graph is sent: every token in one prompt and one tile, padding by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.engine.cuda.prefill_graphs import BUCKETS_S, Bucket, Size
from predictor.engine.options import EngineOptions
from predictor.engine.sequence import Limits, Sequence
from predictor.model.attention import TILE_TOKENS, prompt_tiles
from predictor.types import EngineRequest

MAX_LENGTH, SCRATCH, WINDOW_TOKENS, MAX_TOKENS = 768, 300, 104, 8192
LIMITS = Limits(max_model_len=MAX_LENGTH, vocab_size=1000, eos_token_ids=frozenset())


def sequence(slot: int, duration_s: float, num_before: int) -> Sequence:
    samples = np.zeros(max(1, int(16_000 * duration_s)), dtype=np.float32)
    request = EngineRequest(str(slot), samples, (1,) * num_before, (2, 3), max_new_tokens=5)
    made = Sequence(request, LIMITS, EngineOptions())
    made.slot = slot
    return made


def bucket(num_chunks: int) -> Bucket:
    return Bucket(num_chunks, MAX_LENGTH, WINDOW_TOKENS, MAX_TOKENS)


def parts(some: list[Sequence], chosen: Bucket) -> dict[str, np.ndarray]:
    sent = np.split(chosen.fill(some, SCRATCH), np.cumsum(chosen.sizes())[:-1])
    return {
        name: piece[: int(np.prod(shape))].reshape(shape)
        for piece, (name, shape) in zip(sent, chosen.parts().items(), strict=True)
    }


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_every_token_is_in_one_tile_of_its_own_prompt(lengths: list[int]) -> None:
    tiles = prompt_tiles(lengths)
    ends = np.cumsum(lengths)
    owners = np.full(sum(lengths), -1)
    for first, start, end in tiles:
        last = min(first + TILE_TOKENS, end)
        assert first < last
        assert (owners[first:last] == -1).all()
        prompt = int(np.searchsorted(ends, first, side="right"))
        owners[first:last] = prompt
        assert (start, end) == (ends[prompt] - lengths[prompt], ends[prompt])
        assert (first - start) % TILE_TOKENS == 0
    assert (owners >= 0).all()
    to_attend = tiles[:, 0] - tiles[:, 1]
    assert (np.diff(to_attend) <= 0).all()  # the longest work first


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.05, 40), st.integers(0, 40)), min_size=1, max_size=30),
)
def test_a_bucket_sends_each_prompt_once_and_fills_the_rest(
    shapes: list[tuple[float, int]],
) -> None:
    some = [sequence(slot, *shape) for slot, shape in enumerate(shapes)]
    size = Size.of(some)
    fitting = [bucket(n) for n in BUCKETS_S if bucket(n).holds(size)]
    if not fitting:
        assert size.num_tokens > MAX_TOKENS - 32 or size.num_chunks > BUCKETS_S[-1]
        return
    chosen = fitting[0]
    sent = parts(some, chosen)
    tokens, positions, places = sent["layout"]
    lengths = np.diff(sent["prompts"])
    assert lengths.sum() == chosen.num_tokens == len(tokens)
    assert lengths[: len(some)].tolist() == [s.num_prompt_tokens for s in some]
    first = 0
    for each in some:
        end = first + each.num_prompt_tokens
        assert (places[first:end] == each.slot * MAX_LENGTH + positions[first:end]).all()
        first = end
    assert (places[first:] // MAX_LENGTH == SCRATCH).all()
    tiles = sent["tiles"]
    covered = np.concatenate([np.arange(a, min(a + TILE_TOKENS, b)) for a, _, b in tiles if a < b])
    assert sorted(covered.tolist()) == list(range(chosen.num_tokens))
    windows = np.diff(sent["windows"])
    assert windows.sum() == chosen.num_audio_tokens
    assert windows.max() <= WINDOW_TOKENS
    assert sent["audio_rows"].max() <= chosen.num_tokens


@pytest.mark.parametrize("clip_s", [10.0, 30.0])
def test_the_largest_buckets_fit_a_full_step(clip_s: float) -> None:
    """As many clips as 8,192 tokens hold leave little of a bucket empty."""
    num_clips = MAX_TOKENS // sequence(0, clip_s, 9).num_prompt_tokens
    some = [sequence(slot, clip_s, 9) for slot in range(num_clips)]
    chosen = next(bucket(n) for n in BUCKETS_S if bucket(n).holds(Size.of(some)))
    assert Size.of(some).num_tokens > 0.97 * chosen.num_tokens
    assert Size.of(some).num_chunks > 0.97 * chosen.num_chunks
