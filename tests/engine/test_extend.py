"""Sequences that stay alive, forced tokens and drafts: the tokens that a plain request gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from predictor.engine import EngineClient
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.options import EngineOptions
from predictor.engine.runner import TorchRunner
from predictor.engine.stream import TokenStream
from predictor.errors import InvalidInput, Overloaded
from predictor.model.cuda.decoder import PLAIN
from predictor.model.model import Model
from predictor.types import EngineRequest, ExtendRequest, TokenChunk
from tests.engine.asking import OPTIONS, Known, is_idle, until
from tests.engine.conftest import StartEngine
from tests.model.checkpoints import AUDIO_END, AUDIO_START, clip

BEFORE, AFTER = (1, 2, 3, AUDIO_START), (AUDIO_END, 5, 6)
STEP_SAMPLES = 8_000


async def answer(stream: TokenStream) -> TokenChunk:
    """All of a stream as one chunk."""
    tokens: list[int] = []
    logprobs: list[float] = []
    async for chunk in stream:
        tokens += chunk.token_ids
        logprobs += chunk.logprobs
        last = chunk
    return replace(last, token_ids=tuple(tokens), logprobs=tuple(logprobs))


def drafts(tokens: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Right, wrong, partly right and too long."""
    wrong = tuple((token + 1) % 200 for token in tokens)
    half = len(tokens) // 2
    return {
        "right": tokens,
        "wrong": wrong,
        "half": tokens[:half] + wrong[half:],
        "too long": tokens + wrong + tokens,
    }


@pytest.fixture(params=["plain", "ahead", "small pages", "few pages"])
def runner(request: pytest.FixtureRequest, model: Model) -> TorchRunner:
    """The plain one, and the one that runs ahead; with pages that force sequences to wait."""
    sizes: dict[str, Any] = {"num_slots": OPTIONS.max_num_seqs, "max_model_len": 640}
    options = GraphOptions(buckets=(1, 2), steps=((1, 3),), fusion=PLAIN, check_kernels=False)
    if request.param == "plain":
        return TorchRunner(model, **sizes)
    if request.param == "ahead":
        return GraphRunner(model, **sizes, options=options)
    if request.param == "small pages":
        return TorchRunner(model, **sizes, page_tokens=16)
    return GraphRunner(model, **sizes, options=options, page_tokens=16, num_pages=41)


@pytest.mark.parametrize("kind", ["right", "wrong", "half", "too long"])
async def test_an_answer_does_not_depend_on_its_draft(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine, kind: str
) -> None:
    """Against transformers' answers without any."""
    engine = start_engine(runner)
    for item in known:
        draft = drafts(item.tokens)[kind]
        plain = await answer(engine.submit(item.request))
        ours = await answer(engine.submit(replace(item.request, draft=draft)))
        assert ours.token_ids == item.tokens
        np.testing.assert_allclose(ours.logprobs, plain.logprobs, rtol=1e-4, atol=1e-4)
        expected = {"right": len(item.tokens), "wrong": 0, "half": len(item.tokens) // 2}
        least = expected.get(kind, len(item.tokens))
        most = least if kind != "right" else len(item.tokens)
        # A draft may fill the whole answer but its last token, which greedy decoding adds.
        assert min(least, item.request.max_new_tokens - 1) <= ours.num_draft_accepted <= most
        assert (ours.finish, ours.num_prompt_tokens) == (plain.finish, plain.num_prompt_tokens)


async def test_drafts_and_shared_beginnings_are_counted(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    item = max(known, key=lambda item: len(item.request.tokens_before))  # longer than a page
    for number in range(3):
        request = replace(item.request, request_id=f"d{number}", draft=(*item.tokens[:5], 0, 0))
        assert (await answer(engine.submit(request))).token_ids == item.tokens
    short = min(known, key=lambda item: len(item.request.tokens_before))
    await answer(engine.submit(short.request))
    stats = engine.stats()
    assert (stats.num_prefix_misses, stats.num_prefix_hits) in ((1, 2), (3, 0))  # too few pages
    assert stats.num_draft_tokens == 3 * 7
    assert 3 * 5 <= stats.num_draft_accepted <= 3 * 7


async def test_a_right_draft_costs_no_steps(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine
) -> None:
    steps: list[str] = []
    engine = start_engine(runner, on_step=lambda stats: steps.append(stats.phase))
    item = max(known, key=lambda item: len(item.tokens))
    await answer(engine.submit(replace(item.request, draft=item.tokens)))
    assert steps.count("decode") <= 2  # a runner that runs ahead hands out what has arrived


async def test_forced_tokens_are_part_of_the_prompt_and_their_probabilities_reported(
    runner: TorchRunner, known: list[Known], start_engine: StartEngine
) -> None:
    """Forced to its own beginning, an answer goes on as it did, and is as likely."""
    engine = start_engine(runner)
    for item in known:
        if len(item.tokens) < 3:
            continue
        half = len(item.tokens) // 2
        plain = await answer(engine.submit(item.request))
        request = replace(
            item.request,
            forced=item.tokens[:half],
            scores_forced=True,
            max_new_tokens=item.request.max_new_tokens - half,
        )
        ours = await answer(engine.submit(request))
        assert ours.token_ids == item.tokens[half:]
        given = (*ours.forced_logprobs, *ours.logprobs)
        np.testing.assert_allclose(given, plain.logprobs, rtol=1e-4, atol=1e-4)
        both = await answer(engine.submit(replace(request, draft=item.tokens[half : half + 1])))
        assert both.token_ids == ours.token_ids
        np.testing.assert_allclose(both.forced_logprobs, ours.forced_logprobs, atol=1e-4)


async def test_a_forced_token_is_taken_however_unlikely(
    runner: TorchRunner, model: Model, known: list[Known], start_engine: StartEngine
) -> None:
    """As if it stood in the prompt."""
    engine = start_engine(runner)
    request = known[0].request
    in_prompt = replace(request, tokens_after=(*request.tokens_after, 17, 93))
    ours = await answer(engine.submit(replace(request, forced=(17, 93), scores_forced=True)))
    assert ours.token_ids == (await answer(engine.submit(in_prompt))).token_ids
    assert len(ours.forced_logprobs) == 2


def step(sequence_id: str, samples: np.ndarray, number: int, **options: object) -> ExtendRequest:
    return ExtendRequest(
        request_id=f"{sequence_id}/{number}",
        sequence_id=sequence_id,
        samples=samples,
        tokens_before=BEFORE,
        tokens_after=AFTER,
        max_new_tokens=12,
        **options,  # type: ignore[arg-type]
    )


def whole(samples: np.ndarray, request_id: str = "whole") -> EngineRequest:
    return EngineRequest(request_id, samples, BEFORE, AFTER, max_new_tokens=12)


async def test_each_step_gives_what_the_whole_utterance_gives_at_once(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    """Windows close at 8 s and 40 samples, and at 16 s; the draft is what was said before."""
    engine = start_engine(runner)
    samples = clip(18.0, seed=3)
    said: tuple[int, ...] = ()
    edges = [*range(STEP_SAMPLES, len(samples), 6 * STEP_SAMPLES), 127_999, 128_000, 128_039]
    edges = sorted({*edges, 128_040, 128_041, 256_040, len(samples)})
    begin = 0
    for number, end in enumerate(edges):
        request = step("s", samples[begin:end], number, draft=said)
        ours = await answer(engine.extend(request))
        # The same in one request: the range that a window keeps is that of when it closed.
        alone = await answer(engine.extend(step(f"alone {number}", samples[:end], 0)))
        assert ours.token_ids == alone.token_ids
        if end <= 128_040:  # one window: its loudest bin is the whole's
            plain = await answer(engine.submit(whole(samples[:end])))
            assert ours.token_ids == plain.token_ids
        said, begin = ours.token_ids, end


async def test_steps_of_many_sequences_share_their_steps_and_nothing_else(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    clips = {f"s{i}": clip(1.5 + i, seed=i) for i in range(4)}
    alone = {name: await answer(engine.submit(whole(c))) for name, c in clips.items()}
    begin = dict.fromkeys(clips, 0)
    for number in range(3):
        streams = {}
        for name, samples in clips.items():
            end = len(samples) if number == 2 else begin[name] + STEP_SAMPLES
            part = step(name, samples[begin[name] : end], number)
            streams[name], begin[name] = engine.extend(part), end
        answers = {name: await answer(stream) for name, stream in streams.items()}
    assert {n: a.token_ids for n, a in answers.items()} == {
        n: a.token_ids for n, a in alone.items()
    }


async def test_starting_anew_forgets_what_was_heard(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    first, second = clip(9.0, seed=1), clip(2.0, seed=2)
    await answer(engine.extend(step("s", first, 0)))
    ours = await answer(engine.extend(step("s", second, 1, starts_anew=True)))
    assert ours.token_ids == (await answer(engine.submit(whole(second)))).token_ids


async def test_a_step_without_new_audio_answers_again(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    first = await answer(engine.extend(step("s", clip(2.0, seed=1), 0)))
    nothing = np.zeros(0, np.float32)
    assert (await answer(engine.extend(step("s", nothing, 1)))).token_ids == first.token_ids
    with pytest.raises(InvalidInput, match="at least"):
        await answer(engine.extend(step("t", nothing, 0)))


async def test_a_refused_step_leaves_the_sequence_as_it_was(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    samples = clip(3.0, seed=1)
    await answer(engine.extend(step("s", samples[:16_000], 0)))
    with pytest.raises(InvalidInput, match="finite"):
        await answer(engine.extend(step("s", np.array([np.nan], np.float32), 1)))
    with pytest.raises(InvalidInput, match="tokens; the limit"):
        await answer(engine.extend(step("s", clip(60.0, seed=1), 1)))
    with pytest.raises(InvalidInput, match="has changed"):
        await answer(
            engine.extend(replace(step("s", samples[16_000:], 1), tokens_before=(9, AUDIO_START)))
        )
    ours = await answer(engine.extend(step("s", samples[16_000:], 1)))
    assert ours.token_ids == (await answer(engine.submit(whole(samples)))).token_ids


async def test_one_step_of_a_sequence_at_a_time_and_an_aborted_one_is_none(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    samples = clip(3.0, seed=1)
    stream = engine.extend(step("s", samples[:16_000], 0))
    with pytest.raises(InvalidInput, match="in flight already"):
        await answer(engine.extend(step("s", samples[16_000:], 1)))
    await stream.aclose()
    ours = await answer(engine.extend(step("s", samples[16_000:], 1)))
    assert ours.token_ids == (await answer(engine.submit(whole(samples)))).token_ids


async def test_a_truncated_sequence_goes_on_as_if_it_had_never_heard_the_rest(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    """Against the shorter utterance as one request, at lengths around a window's end."""
    engine = start_engine(runner)
    samples, other = clip(18.0, seed=1), clip(9.0, seed=2)
    for number, at in enumerate((160_000, 136_000, 128_000, 20_000, 0)):
        name = f"s{at}"
        await answer(engine.extend(step(name, samples[:200_000], 10 * number)))
        await answer(engine.extend(step(name, samples[200_000:], 10 * number + 1)))
        engine.truncate(name, at)
        engine.truncate(name, len(samples))  # longer than it is: nothing happens
        for seconds in (1, 9):  # stays in its window, and leaves it
            heard = np.concatenate((samples[:at], other[: 16_000 * seconds]))
            new = heard[at if seconds == 1 else at + 16_000 :]
            ours = await answer(engine.extend(step(name, new, 10 * number + 1 + seconds)))
            plain = await answer(engine.submit(whole(heard, f"{name}/{seconds}")))
            assert ours.token_ids == plain.token_ids
            np.testing.assert_allclose(ours.logprobs, plain.logprobs, rtol=1e-4, atol=1e-4)
        engine.close(name)
    await until(lambda: is_idle(engine))
    assert engine.stats().num_kept == 0


async def test_truncation_waits_for_the_step_and_outlives_one_that_was_left(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    samples, other = clip(12.0, seed=1), clip(3.0, seed=2)
    engine.truncate("nobody", 5)
    stream = engine.extend(step("s", samples, 0))
    with pytest.raises(InvalidInput, match="in flight already"):
        engine.truncate("s", 16_000)
    await stream.aclose()  # its samples count; what it left in the cache may not
    engine.truncate("s", 16_000)
    ours = await answer(engine.extend(step("s", other, 1)))
    heard = np.concatenate((samples[:16_000], other))
    assert ours.token_ids == (await answer(engine.submit(whole(heard)))).token_ids
    with pytest.raises(ValueError, match="num_samples"):
        engine.truncate("s", -1)


async def test_what_is_truncated_makes_room_for_others(
    model: Model, start_engine: Callable[..., EngineClient]
) -> None:
    options = EngineOptions(max_num_seqs=2, max_model_len=640, max_kept_audio_s=3.0)
    engine = start_engine(TorchRunner(model, num_slots=2, max_model_len=640), options)
    await answer(engine.extend(step("a", clip(2.5, seed=1), 0)))
    with pytest.raises(Overloaded, match="the limit is 3 s"):
        await answer(engine.extend(step("b", clip(1.0, seed=1), 0)))
    engine.truncate("a", 16_000)
    await answer(engine.extend(step("b", clip(1.0, seed=1), 1)))


async def test_closing_ends_the_step_under_way_and_frees_the_id(
    runner: TorchRunner, start_engine: StartEngine
) -> None:
    engine = start_engine(runner)
    stream = engine.extend(step("s", clip(2.0, seed=1), 0))
    engine.close("s")
    engine.close("s")
    assert (await answer(stream)).finish in ("abort", "stop", "length")
    samples = clip(2.0, seed=2)
    ours = await answer(engine.extend(step("s", samples, 1)))
    assert ours.token_ids == (await answer(engine.submit(whole(samples)))).token_ids


async def test_kept_sequences_and_their_audio_are_bounded(
    model: Model, start_engine: Callable[..., EngineClient]
) -> None:
    options = EngineOptions(
        max_num_seqs=2, max_model_len=640, max_kept_sequences=2, max_kept_audio_s=3.0
    )
    engine = start_engine(TorchRunner(model, num_slots=2, max_model_len=640), options)
    for name in "ab":
        await answer(engine.extend(step(name, clip(1.0, seed=1), 0)))
    with pytest.raises(Overloaded, match="the limit is 2"):
        await answer(engine.extend(step("c", clip(1.0, seed=1), 0)))
    with pytest.raises(Overloaded, match="the limit is 3 s"):
        await answer(engine.extend(step("a", clip(1.5, seed=1), 1)))
    engine.close("b")
    await answer(engine.extend(step("a", clip(1.5, seed=1), 1)))


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)
    assert OPTIONS.max_model_len >= 400  # tokens of the longest utterance here
