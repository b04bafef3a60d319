"""Pages: nobody reads what another wrote, none is lost, and no sequence waits for ever.

A runner that keeps token ids where keys and values would be: what it reads through a sequence's
pages must be that sequence's own text, from its first token on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.engine.kept import KeptSequences
from predictor.engine.options import EngineOptions
from predictor.engine.pages import PagePool, PageSize
from predictor.engine.prompts import PromptLayout
from predictor.engine.scheduler import Scheduler, Step
from predictor.engine.sequence import Batch, Limits, Prefilled, Sequence
from predictor.types import EngineRequest, ExtendRequest

PAGE = 4
LIMITS = Limits(max_model_len=300, vocab_size=1_000, eos_token_ids=frozenset({999}))
OPTIONS = EngineOptions(max_repeats=10_000, max_prefill_tokens=400)


@dataclass
class TokenRunner:
    """Each next token follows from all tokens before it."""

    scheduler: Scheduler
    cache: dict[int, int] = field(default_factory=dict)  # place -> token

    def text(self, sequence: Sequence, length: int) -> list[int]:
        pages = sequence.pages
        return [self.cache[pages[i // PAGE] * PAGE + i % PAGE] for i in range(length)]

    def prefill(self, sequences: Batch) -> None:
        layout = PromptLayout.of(sequences, PAGE)
        for token, _, place in layout.rows.T.tolist():
            self.cache[place] = token
        for sequence in sequences:
            assert self.text(sequence, sequence.reach) == whole_text(sequence)
            sequence.prefilled(Prefilled(loudest=(0.0,) * len(sequence.stretches())))
            self.take(sequence, next_token(self.text(sequence, sequence.length)))

    def decode(self, sequences: Batch) -> None:
        for sequence in sequences:
            place = sequence.length - 1
            self.cache[sequence.pages[place // PAGE] * PAGE + place % PAGE] = sequence.tokens[-1]
            text = self.text(sequence, sequence.length)
            assert text == whole_text(sequence)
            self.take(sequence, next_token(text))

    def take(self, sequence: Sequence, token: int) -> None:
        if sequence.extend([token], [0.0]).finish is not None:
            assert sequence.tokens == expected_answer(sequence)
            self.scheduler.finish(sequence)


def whole_text(sequence: Sequence) -> list[int]:
    request = sequence.request
    audio = [0] * sequence.num_audio_tokens
    return [*request.tokens_before, *audio, *request.tokens_after, *sequence.given]


def next_token(text: list[int]) -> int:
    return hash(tuple(text)) % 900


def expected_answer(sequence: Sequence) -> list[int]:
    request = sequence.request
    audio = [0] * sequence.num_audio_tokens
    prompt = [*request.tokens_before, *audio, *request.tokens_after, *request.forced]
    answer: list[int] = []
    while len(answer) < sequence.max_new_tokens:
        answer.append(next_token(prompt + answer))
    return answer


def request(number: int, chance: random.Random) -> EngineRequest:
    context = chance.choice([(), (5,) * 9, tuple(range(20, 41))])
    return EngineRequest(
        request_id=f"r{number}",
        samples=np.zeros(chance.choice([100, 8_000, 24_000, 80_000]), np.float32),
        tokens_before=(*context, 1),
        tokens_after=(2, 3),
        max_new_tokens=chance.choice([1, 5, 30, 60]),
        forced=chance.choice([(), (), (7, 8)]),
        draft=chance.choice([(), (), (11, 12, 13)]),
    )


def step(name: str, number: int, chance: random.Random) -> ExtendRequest:
    return ExtendRequest(
        request_id=f"{name} {number}",
        sequence_id=name,
        samples=np.zeros(chance.choice([4_000, 16_000, 70_000]), np.float32),
        tokens_before=(30, 31, 32, 33, 34, 1),
        tokens_after=(2, 3),
        max_new_tokens=chance.choice([1, 8]),
        starts_anew=chance.random() < 0.5,
    )


def run(scheduler: Scheduler, runner: TokenRunner) -> Step | None:
    scheduler.release_aborted()
    chosen = scheduler.schedule()
    if chosen is not None:
        for sequence in chosen.sequences:
            assert sequence.slot >= 0
        (runner.prefill if chosen.phase == "prefill" else runner.decode)(chosen.sequences)
    return chosen


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_pages=st.sampled_from([75, 90, 130, 400]),
    num_slots=st.integers(1, 6),
    num_events=st.integers(1, 120),
)
def test_whatever_comes_and_goes_every_answer_is_its_own(
    seed: int, num_pages: int, num_slots: int, num_events: int
) -> None:
    chance = random.Random(seed)
    size = PageSize(num_pages, PAGE, ahead=chance.choice([1, 9]))
    scheduler = Scheduler(OPTIONS, LIMITS, num_slots, size)
    runner, kept = TokenRunner(scheduler), KeptSequences(OPTIONS, LIMITS)
    started: list[str] = []
    for number in range(num_events):
        event = chance.random()
        if event < 0.3:
            scheduler.add(request(number, chance))
            started.append(f"r{number}")
        elif event < 0.5:
            name = chance.choice("abc")
            newest = kept.newest_step(name)
            if newest is None or not scheduler.is_in_flight(newest):
                part = step(name, number, chance)
                if kept.audio_s(name) + len(part.samples) / 16_000 > 18:
                    kept.close(name, scheduler)
                kept.extend(part, scheduler)
        elif event < 0.55:
            if (closed := kept.close(chance.choice("abc"), scheduler)) is not None:
                scheduler.abort(closed)
        elif event < 0.6 and started:
            scheduler.abort(chance.choice(started))
        else:
            run(scheduler, runner)
    for _ in range(20_000):
        if run(scheduler, runner) is None:
            break
    stats = scheduler.stats()
    assert (stats.num_waiting, stats.num_running, stats.num_failed) == (0, 0, 0)
    for name in "abc":
        kept.close(name, scheduler)
    scheduler.pool.prefixes.clear()
    assert scheduler.pool.num_free == num_pages


def test_the_youngest_gives_up_its_pages_and_comes_back_first() -> None:
    """Two that need 40 pages each in the end, of 75: both fit at first."""
    scheduler = Scheduler(OPTIONS, LIMITS, 3, PageSize(75, PAGE))
    runner = TokenRunner(scheduler)
    for name in "abc":
        samples = np.zeros(16_000 * 5, np.float32)
        scheduler.add(EngineRequest(name, samples, (1,), (2,), max_new_tokens=90))
    seen: list[tuple[str, str]] = []
    while (chosen := run(scheduler, runner)) is not None:
        ids = "".join(s.request.request_id for s in chosen.sequences)
        if not seen or seen[-1] != (chosen.phase, ids):
            seen.append((chosen.phase, ids))
    assert seen[0] == ("prefill", "abc"[: len(seen[0][1])])
    assert scheduler.stats().num_preempted >= 1
    assert scheduler.stats().num_finished == 3
    order = [ids for phase, ids in seen if phase == "prefill"]
    assert "".join(order).rindex("b") < "".join(order).rindex("c")


def test_a_clip_holds_what_it_needs_and_no_more() -> None:
    scheduler = Scheduler(OPTIONS, LIMITS, 1, PageSize(100, PAGE))
    runner = TokenRunner(scheduler)
    samples = np.zeros(16_000, np.float32)
    scheduler.add(EngineRequest("a", samples, (1,), (2,), max_new_tokens=60))
    used = []
    while run(scheduler, runner) is not None:
        used.append(100 - scheduler.pool.num_free)
    assert used[0] == 4  # 15 tokens and one more
    assert max(used) == 19  # 75
    assert scheduler.pool.num_free == 100


def test_a_context_is_prefilled_once_and_shared_up_to_its_last_whole_page() -> None:
    scheduler = Scheduler(OPTIONS, LIMITS, 4, PageSize(200, PAGE))
    runner = TokenRunner(scheduler)
    context = tuple(range(100, 131))  # 7 pages and 3 tokens
    for name in "ab":
        samples = np.zeros(16_000, np.float32)
        scheduler.add(EngineRequest(name, samples, context, (2,), max_new_tokens=5))
    chosen = run(scheduler, runner)
    assert chosen is not None
    first, second = chosen.sequences
    assert first.pages[:7] == second.pages[:7]
    assert not set(first.pages[7:]) & set(second.pages[7:])
    assert (first.num_cached, second.num_cached) == (0, 28)
    while run(scheduler, runner) is not None:
        pass
    assert scheduler.pool.num_free == 200 - 7
    scheduler.add(EngineRequest("c", np.zeros(16_000, np.float32), context, (2,), 5))
    chosen = run(scheduler, runner)
    assert chosen is not None
    assert chosen.sequences[0].num_cached == 28


def test_shared_beginnings_stay_within_their_share_and_yield() -> None:
    pool = PagePool(PageSize(40, PAGE))
    for i in range(5):
        pages = pool.take(4)
        pool.prefixes.keep((i,) * 16, pages)
        pool.release(pages)
    assert pool.num_free == 40 - 8  # a fourth of them is 10: two beginnings of 4
    assert [pool.prefixes.num_cached((i,) * 17) for i in range(5)] == [0, 0, 0, 16, 16]
    shared = pool.prefixes.share((4,) * 16)
    assert pool.has(36)
    assert not pool.has(37)
    assert len(pool.take(36)) == 36
    assert pool.prefixes.num_cached((4,) * 17) == 0 or pool.is_shared(shared[0])


def test_a_kept_sequence_prefills_only_what_its_base_lacks() -> None:
    scheduler = Scheduler(OPTIONS, LIMITS, 2, PageSize(200, PAGE))
    runner, kept = TokenRunner(scheduler), KeptSequences(OPTIONS, LIMITS)
    before = (30, 31, 1)
    cached = []
    for number, num_samples in enumerate((16_000, 112_040, 16_000, 128_000)):
        samples = np.zeros(num_samples, np.float32)
        kept.extend(
            ExtendRequest(f"s{number}", "s", samples, before, (2,), max_new_tokens=2), scheduler
        )
        chosen = run(scheduler, runner)
        assert chosen is not None
        cached.append(chosen.sequences[0].num_cached)
        while run(scheduler, runner) is not None:
            pass
    assert cached == [0, 3, 3 + 104, 3 + 104]
    kept.close("s", scheduler)
    assert scheduler.pool.num_free == 200


def test_steps_of_kept_sequences_go_before_pieces_of_files() -> None:
    options = EngineOptions(max_prefill_audio_s=1.0)
    scheduler = Scheduler(options, LIMITS, 4, PageSize(400, PAGE))
    kept = KeptSequences(options, LIMITS)
    samples = np.zeros(16_000, np.float32)
    for name in "ab":
        scheduler.add(EngineRequest(name, samples, (1,), (2,), max_new_tokens=5))
    kept.extend(ExtendRequest("s", "s", samples, (1,), (2,), max_new_tokens=5), scheduler)
    runner = TokenRunner(scheduler)
    chosen = run(scheduler, runner)
    assert chosen is not None
    assert [s.request.request_id for s in chosen.sequences] == ["s"]
