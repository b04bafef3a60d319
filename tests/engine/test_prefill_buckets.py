"""What a prefill's graph is sent: every token in one prompt and one tile, padding by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.engine.cuda.prefill_buckets import Bucket, Size
from predictor.engine.cuda.prefill_graphs import BUCKETS_S, STEP_BUCKETS
from predictor.engine.options import EngineOptions
from predictor.engine.prompts import PromptLayout
from predictor.engine.sequence import Limits, Sequence
from predictor.engine.utterance import Utterance
from predictor.model.attention import TILE_TOKENS, prompt_tiles
from predictor.model.stretch import Windows
from predictor.types import EngineRequest

MAX_LENGTH, SCRATCH, WINDOW_TOKENS, MAX_TOKENS = 768, 300, 104, 8192
PAGE, SCRATCH_PAGE = 64, 10_000
LIMITS = Limits(max_model_len=MAX_LENGTH, vocab_size=1000, eos_token_ids=frozenset())


def sequence(slot: int, duration_s: float, num_before: int) -> Sequence:
    samples = np.zeros(max(1, int(16_000 * duration_s)), dtype=np.float32)
    request = EngineRequest(str(slot), samples, (1,) * num_before, (2, 3), max_new_tokens=5)
    made = Sequence(request, LIMITS, EngineOptions())
    made.slot = slot
    made.pages = [100 * slot + 3 * i for i in range(MAX_LENGTH // PAGE)]
    return made


def size_of(some: list[Sequence]) -> Size:
    stretches = [stretch for each in some for stretch in each.stretches()]
    return Size.of(some, stretches)


def bucket(num_chunks: int) -> Bucket:
    return Bucket(num_chunks, MAX_LENGTH, WINDOW_TOKENS, MAX_TOKENS)


def parts(some: list[Sequence], chosen: Bucket) -> dict[str, np.ndarray]:
    stretches = [stretch for each in some for stretch in each.stretches()]
    layout, scratch = PromptLayout.of(some, PAGE), (SCRATCH, SCRATCH_PAGE * PAGE)
    filled = np.full(chosen.num_ints, -(2**40), dtype=np.int64)  # of what was there before
    chosen.heard(stretches, filled)
    chosen.encoded(stretches, filled)
    chosen.placed(some, layout, scratch, filled)
    return {
        part.name: filled[part.first : part.first + part.size].reshape(part.shape)
        for part in chosen.parts
    }


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_every_token_is_in_one_tile_of_its_own_prompt(lengths: list[int]) -> None:
    tiles = prompt_tiles(lengths)
    ends = np.cumsum(lengths)
    owners = np.full(sum(lengths), -1)
    for first, start, end, cached, _ in tiles:
        assert cached == 0
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
    size = size_of(some)
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
        held = np.array(each.pages)[positions[first:end] // PAGE]
        assert (places[first:end] == held * PAGE + positions[first:end] % PAGE).all()
        first = end
    assert (places[first:] // PAGE == SCRATCH_PAGE).all()
    tiles = sent["tiles"]
    covered = np.concatenate(
        [np.arange(a, min(a + TILE_TOKENS, b)) for a, _, b, *_ in tiles if a < b]
    )
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
    chosen = next(bucket(n) for n in BUCKETS_S if bucket(n).holds(size_of(some)))
    assert size_of(some).num_tokens > 0.97 * chosen.num_tokens
    assert size_of(some).num_chunks > 0.97 * chosen.num_chunks


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0.5, 22), st.integers(0, 20), st.integers(0, 20)), max_size=32))
def test_a_bucket_for_steps_holds_windows_that_follow_each_other(
    shapes: list[tuple[float, int, int]],
) -> None:
    some = [step(slot, *shape) for slot, shape in enumerate(shapes)]
    if not some:
        return
    size = size_of(some)
    fitting = [step_bucket(n) for n in STEP_BUCKETS if step_bucket(n).holds(size)]
    if not fitting:
        return
    sent = parts(some, fitting[0])
    stretches = [stretch for each in some for stretch in each.stretches()]
    clips = sent["table"][0]
    assert np.bincount(clips).tolist()[: len(stretches)] == [s.num_chunks for s in stretches]
    for earlier, later in sent["followed"].T:
        if earlier < len(stretches):
            assert earlier <= later
    owners, wanted = sent["checks"][3], sent["checks"][0]
    counts = [
        1 + len(s.draft) + (len(s.request.forced) if s.request.scores_forced else 0) for s in some
    ]
    assert np.bincount(owners).tolist()[: len(some)] == counts
    ends = np.cumsum([s.reach - s.num_cached for s in some])
    assert [wanted[owners == i][-1] + 1 for i in range(len(some))] == ends.tolist()


@pytest.mark.parametrize(("utterance_s", "num_steps", "most"), [(4, 28, 1.3), (24, 28, 1.15)])
def test_a_round_of_steps_leaves_little_of_its_bucket_empty(
    utterance_s: int, num_steps: int, most: float
) -> None:
    """At 3.5 tokens of text a second, of which the last four are a draft, a header and a suffix."""
    rng = np.random.default_rng(0)
    filled = []
    for _ in range(10):
        ends_s = 0.5 * rng.integers(1, 2 * utterance_s + 1, num_steps)
        some = [step(i, s, 10 + max(0, int(3.5 * s) - 4), 4) for i, s in enumerate(ends_s)]
        for each in some:  # all its closed windows are cached, and nothing forced is scored
            utterance = each.utterance
            assert utterance is not None
            closed = utterance.windows.num_closed(len(utterance.samples))
            each.num_cached, utterance.loudest = 3 + 104 * closed, (0.0,) * closed
            each.request = replace(each.request, scores_forced=False)
        size = size_of(some)
        chosen = next(step_bucket(n) for n in STEP_BUCKETS if step_bucket(n).holds(size))
        filled.append(chosen.num_tokens / size.num_tokens)
    assert np.mean(filled) < most


def step(slot: int, duration_s: float, num_forced: int, num_draft: int) -> Sequence:
    """Of a kept sequence: all before its open window is cached, or only a part of that."""
    utterance = Utterance(Windows(8), (1, 2, 3))
    utterance.append(np.zeros(int(16_000 * duration_s), dtype=np.float32))
    request = EngineRequest(
        request_id=str(slot),
        samples=utterance.samples,
        tokens_before=(1, 2, 3),
        tokens_after=(4, 5),
        max_new_tokens=50,
        forced=(7,) * num_forced,
        draft=(8,) * num_draft,
        scores_forced=slot % 3 == 0,
    )
    made = Sequence(request, LIMITS, EngineOptions(), utterance)
    num_closed = utterance.windows.num_closed(len(utterance.samples))
    known = max(0, num_closed - slot % 2)  # of every second one a window has just closed
    utterance.loudest = (0.0,) * known
    made.slot, made.num_cached = slot, 3 + 104 * known
    made.pages = [100 * slot + 3 * i for i in range(MAX_LENGTH // PAGE)]
    return made


def step_bucket(num_steps: int) -> Bucket:
    return Bucket(8 * num_steps, MAX_LENGTH, WINDOW_TOKENS, MAX_TOKENS, num_steps)
