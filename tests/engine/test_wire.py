"""Messages between the server and the engine's process survive the socket, however it cuts them."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor import errors
from predictor.engine.link.channel import SpareFile
from predictor.engine.link.wire import (
    MAX_INLINE_BYTES,
    Abort,
    Chunks,
    Close,
    EngineSpec,
    Failed,
    Frames,
    Loaded,
    LoadFailed,
    Message,
    Pulse,
    Stepped,
    Submit,
    encode,
)
from predictor.engine.options import EngineOptions, EngineStats, StepStats
from predictor.engine.sequence import Limits
from predictor.types import EngineRequest, ExtendRequest, TokenChunk

numbers = st.integers(0, 2**32 - 1)
floats = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)  # JSON has no others
tokens = st.lists(numbers, max_size=20).map(tuple)


@st.composite
def chunks(draw: st.DrawFn) -> TokenChunk:
    token_ids = draw(tokens)
    logprobs = draw(st.lists(floats, min_size=len(token_ids), max_size=len(token_ids)))
    finish = draw(st.sampled_from([None, "stop", "length", "repetition", "abort"]))
    forced = draw(st.lists(floats, max_size=4).map(tuple))
    counts = (draw(numbers), draw(numbers), draw(numbers))
    return TokenChunk(token_ids, tuple(logprobs), finish, *counts, forced)


stats = st.builds(
    StepStats,
    phase=st.sampled_from(["prefill", "decode"]),
    num_seqs=numbers,
    num_prompt_tokens=numbers,
    num_new_tokens=numbers,
    audio_s=finite,
    seconds=finite,
    num_waiting=numbers,
    num_running=numbers,
    queue_s=st.lists(finite, max_size=5).map(tuple),
)
held = st.builds(
    EngineStats,
    num_waiting=numbers,
    num_running=numbers,
    waiting_audio_s=finite,
    running_audio_s=finite,
    num_slots=numbers,
    max_model_len=numbers,
)
limits = st.builds(
    Limits,
    max_model_len=numbers,
    vocab_size=numbers,
    eos_token_ids=st.frozensets(numbers, max_size=4),
)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(Path)
specs = st.builds(
    EngineSpec,
    model_path=paths,
    device=st.text(),
    dtype=st.text(),
    options=st.builds(EngineOptions, max_num_seqs=st.integers(1, 4096)),
    num_threads=st.none() | st.integers(1, 64),
)
common = {
    "request_id": st.text(),
    "samples": st.builds(
        np.ones, st.integers(0, 9) | st.just(40_000), st.sampled_from(["float32", "int16"])
    ),
    "tokens_before": tokens,
    "tokens_after": tokens,
    "max_new_tokens": st.integers(1, 2**40),
    "forced": tokens,
    "draft": tokens,
    "is_streamed": st.booleans(),
    "scores_forced": st.booleans(),
}
requests = st.builds(EngineRequest, **common) | st.builds(
    ExtendRequest, sequence_id=st.text(), starts_anew=st.booleans(), **common
)
messages: st.SearchStrategy[Message] = st.one_of(
    specs,
    st.builds(Loaded, limits=limits, num_slots=numbers, device=st.text(), dtype=st.text()),
    st.builds(LoadFailed, error=st.text(), message=st.text()),
    st.builds(Submit, number=numbers, request=requests),
    st.builds(Close, sequence_id=st.text()),
    st.builds(Abort, request_id=st.text()),
    st.builds(Chunks, items=st.lists(st.tuples(numbers, chunks()), max_size=6).map(tuple)),
    st.builds(Stepped, now=held, steps=st.lists(stats, max_size=3).map(tuple)),
    st.builds(Pulse, is_alive=st.booleans(), now=held),
)


@given(st.lists(messages, max_size=5), st.integers(1, 200))
def test_what_is_sent_is_what_arrives(sent: list[Message], piece: int) -> None:
    data = b"".join(map(encode, sent))
    frames = Frames()
    received: list[Message] = []
    for start in range(0, len(data), piece):
        received += frames.feed(data[start : start + piece])
    assert len(received) == len(sent)
    for ours, theirs in zip(sent, received, strict=True):
        if not isinstance(ours, Submit):
            assert theirs == ours
            continue
        assert isinstance(theirs, Submit)
        # Many samples come beside the frame, which says how many, and of which kind.
        samples = ours.request.samples
        assert theirs.request.samples.dtype == samples.dtype
        assert theirs.request.samples.shape == samples.shape
        if samples.nbytes <= MAX_INLINE_BYTES:
            assert theirs.request.samples.tolist() == samples.tolist()
        # Without the samples: from Python 3.13 on a dataclass compares its fields, even the same
        # array with itself.
        found, expected = (replace(each.request, samples=()) for each in (theirs, ours))
        assert (theirs.number, found) == (ours.number, expected)
    assert frames.feed(b"") == []


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidInput("too much", field="audio", value=3.5, limit="less"),
        errors.AudioTooLong("too long", field="audio", value=31, limit=30),
        errors.Overloaded("the queue is full", retry_after_s=17),
        errors.NotReady("shutting down"),
        errors.InternalError("a request's id"),
        errors.DeadlineExceeded("too late"),
    ],
)
def test_errors_keep_their_type_and_what_they_say(error: errors.AsrError) -> None:
    [received] = Frames().feed(encode(Failed(7, error)))
    assert isinstance(received, Failed)
    assert received.number == 7
    assert type(received.error) is type(error)
    assert vars(received.error) == vars(error)
    assert str(received.error) == str(error)


@pytest.mark.parametrize("num_tokens", [10, 4000, 8000, 9000])
@pytest.mark.parametrize("num_unread", [0, 120, 130, 140, 150, 160, 170, 10_000])
def test_a_request_that_cannot_be_sent_whole_is_not_sent(num_tokens: int, num_unread: int) -> None:
    """Into a socket whose reader has stood still, so that it holds some messages, or is full."""
    filler = b"x" * 700
    samples = np.zeros(MAX_INLINE_BYTES, dtype=np.float32)
    message = Submit(7, EngineRequest("r", samples, (151_000,) * num_tokens, (1,), 5))
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    spare, expected = SpareFile(), b""
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        with suppress(BlockingIOError):  # it is full
            while len(expected) < num_unread * len(filler):
                assert ours.send(filler) == len(filler)
                expected += filler
        is_full = len(expected) < num_unread * len(filler)
        if is_sent := spare.send(ours, message, ()):
            expected += encode(message)
        came = b""
        with suppress(BlockingIOError):
            while True:
                came += theirs.recv(1 << 16)
        assert came == expected
        assert is_sent or is_full or num_tokens > 10
    spare.close()
