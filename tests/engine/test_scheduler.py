"""The scheduler alone: order, slots, turns, bounds and counts."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.engine.gathering import MAX_GATHER_S, MAX_STEP_GATHER_S
from predictor.engine.kept import KeptSequences
from predictor.engine.options import EngineOptions
from predictor.engine.scheduler import Scheduler, Step
from predictor.engine.sequence import Limits, Sequence
from predictor.errors import InvalidInput
from predictor.types import EngineRequest, ExtendRequest

LIMITS = Limits(max_model_len=1_000, vocab_size=50, eos_token_ids=frozenset({49}))


def scheduler(num_slots: int = 2, **options: float) -> Scheduler:
    return Scheduler(EngineOptions(**options), LIMITS, num_slots)  # type: ignore[arg-type]


def request(request_id: str, audio_s: float = 1.0) -> EngineRequest:
    samples = np.zeros(int(audio_s * 16_000), np.float32)
    return EngineRequest(request_id, samples, (1,), (2,), max_new_tokens=10)


class Clock:
    """Time that passes when the test says so, however busy the machine is."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def ids(step: Step | None) -> tuple[str, list[str]] | None:
    return step and (step.phase, [s.request.request_id for s in step.sequences])


def run(sequences: tuple[Sequence, ...]) -> None:
    for sequence in sequences:
        sequence.extend([3], [0.0])


def test_first_come_first_served_into_free_slots() -> None:
    s = scheduler(num_slots=2)
    for name in "abc":
        s.add(request(name))
    first = s.schedule()
    assert ids(first) == ("prefill", ["a", "b"])
    assert first is not None
    assert [x.slot for x in first.sequences] == [0, 1]
    assert ids(s.schedule()) == ("decode", ["a", "b"])
    s.finish(first.sequences[0])
    second = s.schedule()
    assert ids(second) == ("prefill", ["c"])
    assert second is not None
    assert second.sequences[0].slot == 0
    assert ids(s.schedule()) == ("decode", ["c", "b"])


def test_nothing_to_do() -> None:
    assert scheduler().schedule() is None


def test_prefill_never_comes_twice_while_others_run() -> None:
    s = scheduler(num_slots=9)
    phases = []
    for name in "abcdef":
        s.add(request(name))
        step = s.schedule()
        assert step is not None
        phases.append(step.phase)
    assert phases == ["prefill", "decode"] * 3


def test_newcomers_gather_while_many_run_but_not_for_long(clock: Clock) -> None:
    s = scheduler(num_slots=512)
    for number in range(64):
        s.add(request(f"r{number}"))
    assert len((s.schedule() or Step("decode", ())).sequences) == 64
    for name in "abc":
        s.add(request(name))
        assert (s.schedule() or Step("prefill", ())).phase == "decode"
    s.add(request("d"))
    assert ids(s.schedule()) == ("prefill", ["a", "b", "c", "d"])
    s.schedule()
    s.add(request("e"))
    assert (s.schedule() or Step("prefill", ())).phase == "decode"
    clock.now_s += MAX_GATHER_S
    assert ids(s.schedule()) == ("prefill", ["e"])


def test_steps_of_streams_gather_while_other_steps_run_but_not_for_files(
    clock: Clock,
) -> None:
    s = scheduler(num_slots=64, max_kept_sequences=32)
    options = EngineOptions(max_kept_sequences=32)
    kept, count = KeptSequences(options, LIMITS), itertools.count()

    def step() -> str:
        name, samples = f"s{next(count)}", np.zeros(8_000, np.float32)
        kept.extend(ExtendRequest(name, name, samples, (1,), (2,), max_new_tokens=4), s)
        return name

    for number in range(16):
        s.add(request(f"f{number}"))
    assert len((s.schedule() or Step("decode", ())).sequences) == 16
    s.schedule()
    first = [step()]
    assert ids(s.schedule()) == ("prefill", first)  # only files run
    s.schedule()
    eight = [step() for _ in range(8)]
    assert ids(s.schedule()) == ("prefill", eight)
    s.schedule()
    few = [step() for _ in range(4)]
    assert (s.schedule() or Step("prefill", ())).phase == "decode"  # nine run
    few.append(step())
    assert ids(s.schedule()) == ("prefill", few)
    s.schedule()
    late = step()
    assert (s.schedule() or Step("prefill", ())).phase == "decode"
    clock.now_s += MAX_STEP_GATHER_S
    assert ids(s.schedule()) == ("prefill", [late])


def test_after_all_ended_prefill_follows_prefill() -> None:
    s = scheduler(num_slots=1)
    s.add(request("a"))
    s.add(request("b"))
    step = s.schedule()
    assert step is not None
    s.finish(step.sequences[0])
    assert ids(s.schedule()) == ("prefill", ["b"])


def test_a_prefill_step_is_bounded_by_audio_but_takes_one_clip_of_any_length() -> None:
    s = scheduler(num_slots=9, max_prefill_audio_s=10.0)
    for name, audio_s in (("a", 30.0), ("b", 4.0), ("c", 6.0), ("d", 1.0)):
        s.add(request(name, audio_s))
    assert ids(s.schedule()) == ("prefill", ["d", "b"])
    s.schedule()
    assert ids(s.schedule()) == ("prefill", ["c"])
    s.schedule()
    assert ids(s.schedule()) == ("prefill", ["a"])


def test_a_short_clip_waits_for_the_step_that_runs_and_not_for_long_recordings() -> None:
    s = scheduler(num_slots=64, max_prefill_audio_s=60.0)
    for recording in range(6):
        for piece in range(8):
            s.add(request(f"long-{recording}:{piece}", 30.0))
    first = s.schedule()
    assert first is not None
    assert len(first.sequences) == 2
    s.add(request("short:0", 2.5))
    assert ids(s.schedule())[0] == "decode"  # type: ignore[index]
    assert ids(s.schedule())[1][0] == "short:0"  # type: ignore[index]


@given(
    clips_s=st.lists(st.floats(0.1, 40.0), min_size=1, max_size=20),
    num_pieces=st.integers(1, 4),
    num_long=st.integers(1, 3),
)
@settings(deadline=None, max_examples=10)
def test_short_clips_without_end_do_not_stop_a_long_recording(
    clips_s: list[float], num_pieces: int, num_long: int
) -> None:
    """A piece is passed by its own length of each other request; pieces keep their order."""
    s = scheduler(num_slots=1, max_prefill_audio_s=0.1)
    for piece in range(num_pieces):
        for recording in range(num_long):
            s.add(request(f"long-{recording}:{piece}", 30.0))
    clips, passed_s, done = itertools.cycle(clips_s), 0.0, []
    s.add(request("clip-0:0", next(clips)))
    while len(done) < num_pieces * num_long:
        step = s.schedule()
        assert step is not None
        [sequence] = step.sequences
        s.finish(sequence)
        name, _, piece = sequence.request.request_id.partition(":")
        if name.startswith("long"):
            done.append((name, int(piece)))
        else:
            passed_s += sequence.audio_s
            s.add(request(f"clip-{s.stats().num_finished}:0", next(clips)))
        assert passed_s <= (len(done) + num_long) * 30.0 * (num_long + 1) + 40.0
    for recording in range(num_long):
        assert [piece for name, piece in done if name.endswith(str(recording))] == list(
            range(num_pieces)
        )


def test_a_prefill_step_is_bounded_by_tokens_too() -> None:
    s = scheduler(num_slots=9, max_prefill_tokens=31)
    for name in "abc":
        s.add(request(name))  # 15 tokens each
    assert ids(s.schedule()) == ("prefill", ["a", "b"])


def test_an_id_can_be_used_again_only_when_it_has_ended() -> None:
    s = scheduler()
    s.add(request("a"))
    with pytest.raises(InvalidInput, match="in flight"):
        s.add(request("a"))
    step = s.schedule()
    assert step is not None
    s.finish(step.sequences[0])
    s.add(request("a"))


def test_aborting_a_waiting_request_gives_its_room_back_at_once() -> None:
    s = scheduler(num_slots=1)
    s.add(request("a"))
    assert s.abort("a") is not None
    assert s.stats().waiting_audio_s == 0
    s.add(request("b"))
    assert s.abort("a") is None
    assert ids(s.schedule()) == ("prefill", ["b"])


def test_aborting_a_running_request_frees_its_slot_before_the_next_step() -> None:
    s = scheduler(num_slots=1)
    s.add(request("a"))
    s.add(request("b"))
    s.schedule()
    assert s.abort("a") is not None
    assert s.abort("a") is None
    assert s.stats().num_running == 1
    s.release_aborted()
    assert ids(s.schedule()) == ("prefill", ["b"])


def test_counts() -> None:
    s = scheduler(num_slots=2)
    for name in "abcd":
        s.add(request(name, 2.0))
    step = s.schedule()
    assert step is not None
    stats = s.stats()
    assert (stats.num_waiting, stats.num_running, stats.num_slots) == (2, 2, 2)
    assert (stats.waiting_audio_s, stats.running_audio_s, stats.max_model_len) == (4, 4, 1_000)
    s.finish(step.sequences[0])
    s.finish(step.sequences[1], failed=True)
    s.abort("c")
    stats = s.stats()
    assert (stats.num_finished, stats.num_failed, stats.num_waiting) == (2, 1, 1)


def test_dropping_all_leaves_it_empty_and_usable() -> None:
    s = scheduler(num_slots=2)
    for name in "abc":
        s.add(request(name))
    s.schedule()
    s.abort("b")
    assert [x.request.request_id for x in s.drop_all()] == ["a", "c"]
    stats = s.stats()
    assert (stats.num_waiting, stats.num_running, stats.waiting_audio_s) == (0, 0, 0)
    for name in "abc":
        s.add(request(name))
    assert ids(s.schedule()) == ("prefill", ["a", "b"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_num_seqs", 0), ("max_prefill_audio_s", 0.0), ("kv_memory_fraction", 1.1),
     ("stall_timeout_s", float("nan")), ("max_tokens_per_audio_s", float("inf")),
     ("kv_precision", "int8")],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(name: str, value: float | str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        EngineOptions(**{name: value})  # type: ignore[arg-type]
