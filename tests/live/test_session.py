"""What holds for every live session, on the embedded checkpoint and real audio."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from predictor.engine import EngineClient
from predictor.errors import InternalError
from predictor.live.engine_steps import SubmittedSteps
from predictor.live.events import Committed, Completed, Failed, Partial, SpeechStarted
from predictor.live.options import LiveOptions, SessionConfig, TurnDetection
from predictor.live.session import LiveSession
from predictor.types import EngineRequest
from tests.live.play import Played, Studio, play_all
from tests.live.streams import RATE, Stream, alone, audio, join

TALK = ["en-short-003", "zh-short-002", "en-short-010", "zh-short-011"]
WRONG_AT_FIRST = ("zh-short-024", "zh-short-030", "en-short-013", "en-short-094")


@pytest.fixture(scope="module")
def talk(studio: Studio, engine: EngineClient) -> Played:
    """A conversation of a few clips in two languages."""
    return play_all(studio, engine, [join("talk", TALK, 1)])[0]


def test_deltas_joined_are_the_completed_text(talk: Played) -> None:
    said: dict[int, str] = {}
    for event in talk.of(Partial):
        said[event.item] = said.get(event.item, "") + event.delta
    completed = {event.item: event.text for event in talk.of(Completed)}
    assert len(completed) >= 4
    assert said == completed


def test_each_partial_shows_the_words_and_tokens_of_its_text(talk: Played) -> None:
    shown = [event for event in talk.of(Partial) if event.delta]
    assert shown
    for event in shown:
        assert "".join(word.text for word in event.delta_words).strip() == event.delta.strip()
        assert b"".join(t.data for t in event.tokens).decode().strip() == event.delta.strip()
        assert "".join(word.text for word in event.tail_words).strip() == event.tail.strip()
        assert all(0 < word.confidence <= 1 for word in (*event.delta_words, *event.tail_words))


def test_an_item_tells_when_it_was_said_and_in_which_language(talk: Played) -> None:
    items = talk.of(Completed)
    assert {item.language for item in items} == {"English", "Chinese"}
    assert [item.item for item in items] == list(range(1, len(items) + 1))
    for before, after in pairwise(items):
        assert before.start_s < before.end_s <= after.start_s + 0.3
    assert all(item.num_audio_tokens > 0 and item.num_completion_tokens > 0 for item in items)


def test_committed_tokens_are_forced_and_the_rest_is_the_draft(talk: Played) -> None:
    for before, after in pairwise(talk.steps):
        if before.step.utterance == after.step.utterance:
            known = (*before.step.forced, *before.outcome.tokens)
            assert (*after.step.forced, *after.step.draft) == known
            assert after.step.forced[: len(before.step.forced)] == before.step.forced
            assert after.step.num_heard == len(before.step.samples)


def test_without_commits_the_last_step_is_offline_decoding(
    studio: Studio, engine: EngineClient
) -> None:
    never = SessionConfig(agreement_s=1e6)
    streams = [alone(name) for name in ("en-short-012", "zh-short-007")]
    for played in play_all(studio, engine, streams, config=never):
        [last] = [ran for ran in played.steps if ran.step.is_final] or [played.steps[-1]]
        assert last.step.forced == ()
        assert last.outcome.tokens == _offline(engine, last.step.samples, last.step.prompt)


def _offline(engine: EngineClient, samples: np.ndarray, prompt: Any) -> tuple[int, ...]:
    async def run() -> tuple[int, ...]:
        tokens: list[int] = []
        request = EngineRequest(
            "offline", samples, prompt.tokens_before, prompt.tokens_after, 1 << 20
        )
        async for chunk in engine.submit(request):
            tokens += chunk.token_ids
        return tuple(tokens)

    return asyncio.run(run())


@pytest.mark.parametrize("name", ["talk", "long"])
def test_kept_keys_and_values_are_a_prefill_of_everything(
    studio: Studio, engine: EngineClient, talk: Played, name: str
) -> None:
    if name == "talk":
        streams, kept = [join("talk", TALK, 1)], [talk]
    else:  # windows of 8 s close within an utterance
        streams = [_of(audio("en-long-003")[: 14 * RATE])]
        slow = SessionConfig(turns=TurnDetection(pause_s=2.0))
        kept = play_all(studio, engine, streams, config=slow)
        assert max(len(ran.step.samples) for ran in kept[0].steps) > 8.5 * RATE
    config = None if name == "talk" else slow
    anew = play_all(studio, engine, streams, is_kept=False, config=config)
    assert [ran.outcome.tokens for ran in kept[0].steps] == [
        ran.outcome.tokens for ran in anew[0].steps
    ]
    assert [ran.outcome.num_accepted for ran in kept[0].steps] == [
        ran.outcome.num_accepted for ran in anew[0].steps
    ]


@pytest.mark.parametrize("draft", ["none", "random"])
def test_what_is_drafted_changes_nothing(
    studio: Studio, engine: EngineClient, talk: Played, draft: str
) -> None:
    rng = np.random.default_rng(5)

    async def run() -> None:
        steps = SubmittedSteps(engine.submit)
        for ran in talk.steps[:12]:
            other = () if draft == "none" else tuple(rng.integers(0, 500, 6).tolist())
            outcome = await steps.step(replace(ran.step, draft=other))
            assert outcome.tokens == ran.outcome.tokens

    asyncio.run(run())


def test_streams_do_not_hear_each_other(studio: Studio, engine: EngineClient, talk: Played) -> None:
    others = [join(f"other{i}", [f"en-short-02{i}"], i) for i in range(3)]
    beside = play_all(studio, engine, [join("talk", TALK, 1), *others])[0]
    assert [e.text for e in beside.of(Completed)] == [e.text for e in talk.of(Completed)]
    assert [e.tail for e in beside.of(Partial)] == [e.tail for e in talk.of(Partial)]


def test_a_wrong_first_language_is_recovered(studio: Studio, engine: EngineClient) -> None:
    early = LiveOptions(first_step_s=0.2)
    streams = [alone(name) for name in WRONG_AT_FIRST]
    plays = play_all(studio, engine, streams, options=early)
    first = [played.of(Partial)[0].language for played in plays]
    final = [played.of(Completed)[0].language for played in plays]
    right = ["Chinese", "Chinese", "English", "English"]
    assert final == right
    assert first != right  # or the test would show nothing


def test_silence_after_a_text_does_not_change_it(studio: Studio, engine: EngineClient) -> None:
    rng = np.random.default_rng(3)
    clip = audio("en-short-012")
    tails = [
        np.zeros(20 * RATE, np.float32),
        rng.normal(0, 1e-3, 20 * RATE).astype(np.float32),
        rng.normal(0, 0.02, 20 * RATE).astype(np.float32),
    ]
    plain = alone("en-short-012")
    streams = [_of(np.concatenate([clip, tail])) for tail in tails]
    texts = [played.text for played in play_all(studio, engine, [plain, *streams])]
    assert texts[0]
    assert len(set(texts)) == 1


def _of(samples: np.ndarray) -> Stream:
    return Stream("made", samples, (), ())


@pytest.mark.parametrize("kind", ["zeros", "white", "hum"])
def test_silence_and_noise_are_no_steps_and_no_words(
    studio: Studio, engine: EngineClient, kind: str
) -> None:
    n = 60 * RATE
    sound = {
        "zeros": np.zeros(n),
        "white": np.random.default_rng(0).normal(0, 0.03, n),
        "hum": 0.1 * np.sin(2 * np.pi * 50 * np.arange(n) / RATE),
    }[kind]
    [played] = play_all(studio, engine, [_of(sound.astype(np.float32))])
    assert played.steps == []
    assert played.events == []


def test_a_step_costs_the_utterance_and_no_more(talk: Played) -> None:
    for ran in talk.steps:
        heard_s = len(ran.step.samples) / RATE
        prompt = ran.outcome.num_prompt_tokens - ran.outcome.num_audio_tokens
        assert ran.outcome.num_audio_tokens <= 13 * (heard_s + 1)
        assert prompt <= 24
        assert len(ran.outcome.tokens) <= 16 * heard_s + 9
        assert len(ran.step.samples) <= 24.2 * RATE


def test_speech_without_a_pause_is_cut_at_the_longest_utterance(
    studio: Studio, engine: EngineClient
) -> None:
    options = LiveOptions(max_utterance_s=2.0)
    clip = audio("en-long-003")[: 8 * RATE]
    turns = SessionConfig(turns=TurnDetection(pause_s=5.0))
    [played] = play_all(studio, engine, [_of(clip)], options=options, config=turns)
    items = played.of(Completed)
    assert len(items) >= 3
    for before, after in pairwise(items):
        assert after.start_s - before.end_s < 0.04  # nothing between them is lost
    assert max(len(ran.step.samples) for ran in played.steps) <= 2.4 * RATE


def test_a_text_decoded_anew_is_the_offline_one(studio: Studio, engine: EngineClient) -> None:
    anew = SessionConfig(final_redecode=True)
    [played] = play_all(studio, engine, [alone("en-short-021")], config=anew)
    [last] = [ran for ran in played.steps if ran.step.is_final]
    assert last.step.forced == ()
    assert last.outcome.tokens == _offline(engine, last.step.samples, last.step.prompt)
    assert played.of(Completed)[0].text


class _Frames:
    """A session fed by hand: the caller says what is speech and what the model answers."""

    def __init__(self, studio: Studio, **config: Any) -> None:
        self.session = LiveSession(
            studio.prompts, studio.tokenizer, LiveOptions(), SessionConfig(**config)
        )

        self._frames: list[weakref.ref[np.ndarray]] = []

    def num_held(self) -> int:
        """Samples of all frames that somebody still holds."""
        self._frames = [frame for frame in self._frames if frame() is not None]
        return 512 * len(self._frames)

    def hear(self, seconds: float, probability: float) -> list[Any]:
        steps = []
        for _ in range(round(seconds * RATE / 512)):
            frame = np.zeros(512, np.float32)
            self._frames.append(weakref.ref(frame))
            step = self.session.hear(frame, probability)
            if step is not None:
                steps.append(step)
                self.session.fail(InternalError("x")) if step.is_final else self.session.skip()
        return steps


@pytest.mark.parametrize("config", [{}, {"is_manual": True}], ids=["pauses", "by hand"])
def test_what_was_said_before_the_session_silences_nobody(
    studio: Studio, engine: EngineClient, config: dict[str, Any]
) -> None:
    """The embedded checkpoint hears less, or nothing, behind a context of two languages."""
    before = "Remind me to call my sister at 7:30. 明天早上北京的天气怎么样？"
    stream = alone("en-short-003")
    fresh, resumed = (
        play_all(studio, engine, [stream], config=SessionConfig(resumed_text=text, **config))[0]
        for text in ("", before)
    )
    assert resumed.text == fresh.text == "Today is Tuesday, May thirty-first."


def test_a_manual_turn_is_one_item_over_its_pauses(studio: Studio, engine: EngineClient) -> None:
    stream = join("turn", ["en-short-003", "en-short-010"], 2, pauses_s=(1.0, 1.2))
    manual = SessionConfig(is_manual=True)
    [played] = play_all(studio, engine, [stream], config=manual)
    [item] = played.of(Completed)
    assert len(played.of(Committed)) == 1
    assert played.of(SpeechStarted) == []
    assert item.text == "".join(event.delta for event in played.of(Partial))
    apart = play_all(studio, engine, [stream])[0].text
    assert item.text == apart


def test_a_manual_turn_without_detected_speech_is_looked_at(studio: Studio) -> None:
    by_hand = _Frames(studio, is_manual=True)
    by_hand.hear(1.0, 0.1)
    step = by_hand.session.commit()
    assert step is not None
    assert step.is_final
    assert len(step.samples) == pytest.approx(RATE, abs=512)


def test_a_commit_with_nothing_to_commit_does_nothing(studio: Studio) -> None:
    by_hand = _Frames(studio)
    by_hand.hear(3.0, 0.0)
    assert by_hand.session.commit() is None
    assert by_hand.session.take_events() == []


def test_cleared_audio_is_forgotten(studio: Studio) -> None:
    by_hand = _Frames(studio, is_manual=True)
    by_hand.hear(0.4, 0.9)
    by_hand.session.clear()
    assert by_hand.session.turn_s == 0
    by_hand.hear(0.4, 0.0)
    step = by_hand.session.commit()
    assert step is not None
    assert len(step.samples) <= 0.45 * RATE


def test_a_step_that_fails_ends_its_item_and_not_the_session(studio: Studio) -> None:
    by_hand = _Frames(studio)
    by_hand.hear(0.7, 0.9)
    by_hand.hear(0.6, 0.0)
    kinds = [type(event) for event in by_hand.session.take_events()]
    assert Failed in kinds
    assert by_hand.hear(0.7, 0.9)  # the next utterance is looked at again


def test_a_click_is_no_speech(studio: Studio) -> None:
    by_hand = _Frames(studio)
    for _ in range(20):
        by_hand.hear(0.032, 0.9)
        by_hand.hear(0.064, 0.1)
    assert by_hand.session.take_events() == []


@pytest.mark.parametrize("config", [{}, {"is_manual": True}], ids=["pauses", "by hand"])
def test_half_an_hour_of_silence_holds_no_more_audio_than_a_minute(
    studio: Studio, config: dict[str, Any]
) -> None:
    by_hand = _Frames(studio, **config)
    by_hand.hear(60.0, 0.02)
    held = by_hand.num_held()
    assert held > 0
    assert by_hand.hear(1800.0, 0.02) == []
    assert by_hand.num_held() == held <= 25 * RATE
    assert by_hand.session.take_events() == []
