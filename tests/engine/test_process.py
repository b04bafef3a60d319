"""An engine in a process of its own keeps the promises of one in the server's."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictor.engine import (
    StepStats,
)
from predictor.engine.link.channel import Inbox
from predictor.engine.link.wire import MAX_INLINE_BYTES, Failed, Submit, encode
from predictor.errors import InternalError, InvalidInput
from predictor.shared_samples import mapped
from predictor.types import EngineRequest
from tests.engine.asking import Known, chunks_of, is_idle, renamed, tokens_of, until
from tests.engine.own_process import Started, StartProcess, held, memory_files, spec, step


@pytest.fixture
def engine(shared_process: Started) -> Started:
    """It is left as it was found."""
    return shared_process


async def test_the_tokens_are_those_of_the_engine_here(engine: Started, known: list[Known]) -> None:
    streams = [engine.submit(k.request) for k in known]
    assert [await tokens_of(stream) for stream in streams] == [k.tokens for k in known]
    assert engine.is_alive()
    await until(lambda: is_idle(engine))


async def test_the_last_chunk_counts_and_probabilities_come_along(
    engine: Started, known: list[Known]
) -> None:
    chunks = await chunks_of(engine.submit(known[0].request))
    assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish in ("stop", "length")
    assert (chunks[-1].num_audio_tokens, chunks[-1].num_prompt_tokens) == (13, 13 + 3 + 2)
    assert all(len(c.token_ids) == len(c.logprobs) for c in chunks)
    assert all(logprob <= 0 for c in chunks for logprob in c.logprobs)


async def test_many_streams_at_once_from_two_event_loops(
    engine: Started, known: list[Known]
) -> None:
    async def ask(loop: str) -> list[tuple[int, ...]]:
        streams = [engine.submit(renamed(known[i % len(known)], f"{loop}{i}")) for i in range(40)]
        return await asyncio.gather(*map(tokens_of, streams))

    expected = [known[i % len(known)].tokens for i in range(40)]
    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(ask("other"))))
    assert await ask("this") == expected
    assert await other == expected
    await until(lambda: is_idle(engine))


@pytest.mark.parametrize("how", ["aclose", "cancel", "abort"])
async def test_leaving_frees_the_place_and_the_rest_goes_on(
    engine: Started, known: list[Known], how: str
) -> None:
    num_finished = engine.stats().num_finished
    leaver = engine.submit(renamed(known[4], "leaver"))
    stayer = engine.submit(renamed(known[2], "stayer"))
    await anext(leaver)
    if how == "aclose":
        await leaver.aclose()
        await leaver.aclose()
    elif how == "abort":
        engine.abort("leaver")
        engine.abort("never seen")
    else:
        task = asyncio.ensure_future(chunks_of(leaver))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await tokens_of(stayer) == known[2].tokens
    rest = await chunks_of(leaver)
    assert [c.finish for c in rest if c.finish] == (["abort"] if how == "abort" else [])
    await until(lambda: is_idle(engine))
    assert engine.stats().num_finished == num_finished + 2


async def test_what_never_fits_is_refused(engine: Started, known: list[Known]) -> None:
    with pytest.raises(InvalidInput) as error:
        await tokens_of(engine.submit(replace(known[0].request, tokens_before=(1,) * 640)))
    assert (error.value.field, error.value.value, error.value.limit) == ("audio", 655, 639)
    stream = engine.submit(renamed(known[0], "twice"))
    with pytest.raises(InvalidInput) as error:
        await tokens_of(engine.submit(renamed(known[0], "twice")))
    assert error.value.field == "request_id"
    assert await tokens_of(stream) == known[0].tokens


async def test_samples_of_a_decoder_reach_the_engine_in_the_file_they_came_in(
    engine: Started, known: list[Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = memory_files("self")  # another test's server may still be at work
    fd = os.memfd_create("samples")
    os.write(fd, known[2].request.samples.tobytes())
    samples = mapped(fd, len(known[2].request.samples))

    def refuse(name: str, flags: int = 0) -> int:
        raise AssertionError(f"the samples are copied into {name}")

    monkeypatch.setattr(os, "memfd_create", refuse)
    request = replace(known[2].request, request_id="mapped", samples=samples)
    assert await tokens_of(engine.submit(request)) == known[2].tokens
    del request, samples
    gc.collect()
    assert memory_files("self") <= before
    assert not memory_files(engine.pid)


async def test_a_kept_sequence_grows_and_is_heard_as_a_whole(
    engine: Started, known: list[Known]
) -> None:
    await tokens_of(engine.extend(step(known[2], 1, slice(0, 8000))))
    assert await tokens_of(engine.extend(step(known[2], 2, slice(8000, None)))) == known[2].tokens
    engine.close("kept")
    assert await tokens_of(engine.extend(step(known[1], 3, slice(None)))) == known[1].tokens
    engine.close("kept")


async def test_a_kept_sequence_is_truncated_over_there(engine: Started, known: list[Known]) -> None:
    """Back by a part of what it heard, in the open window and behind a closed one, and on again to
    the whole: transformers' answer to it."""
    item = known[6]
    for back in (20_000, 140_000):
        await tokens_of(engine.extend(step(item, 0, slice(0, 30_000))))
        await tokens_of(engine.extend(step(item, 1, slice(30_000, 180_000))))
        engine.truncate("kept", back)
        assert await tokens_of(engine.extend(step(item, 2, slice(back, None)))) == item.tokens
        engine.close("kept")


async def test_16_bit_samples_are_what_they_say(engine: Started, known: list[Known]) -> None:
    """Samples times 32768, in half the bytes: the same tokens as their values as floats."""
    rounded = np.rint(known[2].request.samples * 2.0**15).clip(-(2**15), 2**15 - 1)
    short = replace(known[2].request, request_id="16", samples=rounded.astype(np.int16))
    samples = (rounded / 2.0**15).astype(np.float32)
    long = replace(known[2].request, request_id="32", samples=samples)
    assert await tokens_of(engine.submit(short)) == await tokens_of(engine.submit(long))


async def test_the_observer_sees_every_step(
    start_process: StartProcess, known: list[Known], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[StepStats] = []

    def observe(step: StepStats) -> None:
        seen.append(step)
        raise ValueError("no such bucket")

    engine = start_process(on_step=observe)
    chunks = await chunks_of(engine.submit(known[0].request))
    num_tokens = sum(len(c.token_ids) for c in chunks)
    await until(lambda: sum(step.num_new_tokens for step in seen) >= num_tokens)
    prefill = seen[0]
    assert (prefill.phase, prefill.num_seqs, prefill.num_prompt_tokens) == ("prefill", 1, 18)
    assert len(prefill.queue_s) == 1
    assert {step.phase for step in seen[1:]} == {"decode"}
    assert "observer failed" in caplog.text


def test_a_listener_whose_loop_is_gone_is_dropped(engine: Started, known: list[Known]) -> None:
    async def submit_and_leave() -> None:
        engine.submit(renamed(known[4], "left"))

    with held(engine):
        asyncio.run(submit_and_leave())
    asyncio.run(until(lambda: is_idle(engine)))
    assert engine.is_alive()


async def test_samples_are_gone_once_they_are_taken(engine: Started, known: list[Known]) -> None:
    before = memory_files("self")
    streams = [engine.submit(renamed(known[1], f"s{i}")) for i in range(8)]
    await asyncio.gather(*map(tokens_of, streams))
    assert memory_files("self") <= before
    assert not memory_files(engine.pid)


async def test_requests_one_after_another_share_a_file(
    start_process: StartProcess, known: list[Known]
) -> None:
    """Each is heard as it is: shorter behind longer ones, and some that come at once."""
    before = memory_files("self", "spare")
    engine = start_process()
    used: set[int] = set()
    for index, each in enumerate([8, 5, 6, 4, 8]):
        stream = engine.submit(renamed(known[each], f"r{index}"))
        assert await tokens_of(stream) == known[each].tokens
        used |= memory_files("self", "spare") - before
    assert len(used) == 1
    streams = [engine.submit(known[each].request) for each in (6, 4, 8)]
    answers = await asyncio.gather(*map(tokens_of, streams))
    assert answers == [known[each].tokens for each in (6, 4, 8)]
    assert memory_files("self", "spare") - before == used
    assert not memory_files(engine.pid, "spare")
    engine.stop()
    assert not memory_files("self", "spare") & used


def test_the_process_does_not_hold_our_secrets(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3_ASR_API_KEYS", "a-secret-of-ours")
    engine = Started(spec(native))
    try:
        assert b"a-secret-of-ours" not in Path(f"/proc/{engine.pid}/environ").read_bytes()
    finally:
        engine.stop()


def test_a_request_whose_samples_are_lost_fails_alone(start_process: StartProcess) -> None:
    engine = start_process()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.connect(str(engine.process.address))
        inbox = Inbox(channel)
        for number in (1, 2):
            samples = np.zeros(2 * MAX_INLINE_BYTES, dtype=np.float32)  # too many for the frame
            message = Submit(number, EngineRequest(f"r{number}", samples, (1,), (2,), 5))
            assert not message.is_inline
            channel.sendall(encode(message))
        failed: list[Failed] = []
        while len(failed) < 2:
            messages = inbox.read()
            assert messages is not None
            failed += [message for message in messages if isinstance(message, Failed)]
    assert [f.number for f in failed] == [1, 2]
    assert all(isinstance(f.error, InternalError) for f in failed)
