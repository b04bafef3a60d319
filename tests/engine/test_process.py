"""An engine in a process of its own keeps the promises of one in the server's."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor.engine import (
    CoreProcess,
    EngineClient,
    EngineOptions,
    EngineSpec,
    RemoteCore,
    StepStats,
)
from predictor.engine.link.channel import Inbox
from predictor.engine.link.process import WORKER
from predictor.engine.link.wire import MAX_INLINE_BYTES, Failed, Submit, encode
from predictor.errors import InternalError, InvalidInput, NotReady, Overloaded
from predictor.model.config import CheckpointError
from predictor.shared_samples import mapped
from predictor.types import EngineRequest, ExtendRequest
from tests.engine.conftest import OPTIONS, Known
from tests.engine.hanging_worker import HANGS, HANGS_WITH_THE_GIL
from tests.engine.test_engine import chunks_of, is_idle, renamed, tokens_of, until

ROOT = Path(__file__).parents[2]


class Started(EngineClient):
    """A client of an engine's process that ends with it."""

    def __init__(
        self,
        spec: EngineSpec,
        on_step: Callable[[StepStats], None] | None = None,
        on_lost: Callable[[], None] = lambda: None,
        worker: str = WORKER,
    ) -> None:
        self.process = CoreProcess(on_lost=on_lost, worker=worker)
        self.process.load(spec)
        super().__init__([RemoteCore(self.process.address, spec.options, on_step, self.process)])

    @property
    def pid(self) -> int:
        return self.process.pid


StartProcess = Callable[..., Started]


def spec(folder: Path, options: EngineOptions = OPTIONS) -> EngineSpec:
    return EngineSpec(folder, "cpu", "float32", options, num_threads=1)


@pytest.fixture
def start_process(native: Path) -> Iterator[StartProcess]:
    """Start an engine's process on `native`; stopped when the test ends."""
    started: list[Started] = []

    def start(options: EngineOptions = OPTIONS, **observers: Any) -> Started:
        started.append(Started(spec(native, options), **observers))
        started[-1].start()
        return started[-1]

    yield start
    for engine in started:
        engine.stop()


@pytest.fixture(scope="module")
def engine(native: Path) -> Iterator[Started]:
    """One that tests share which leave it as they found it."""
    engine = Started(spec(native))
    engine.start()
    yield engine
    engine.stop()


@contextmanager
def held(engine: Started) -> Iterator[None]:
    """The process stands still inside the block."""
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(engine.pid, signal.SIGCONT)


def memory_files(pid: int | str) -> int:
    """How many files of samples a process has open."""
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            links.append(os.readlink(fd))
    return sum("memfd:samples" in link for link in links)


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


async def test_a_process_that_is_killed_fails_what_is_in_flight_and_starts_again_once(
    start_process: StartProcess, known: list[Known], caplog: pytest.LogCaptureFixture
) -> None:
    lost = threading.Event()
    engine = start_process(on_lost=lost.set)
    first_pid = engine.pid
    running = engine.submit(renamed(known[4], "running"))
    await anext(running)
    os.kill(engine.pid, signal.SIGSTOP)
    streams = [running, *(engine.submit(renamed(known[4], f"w{i}")) for i in range(9))]
    os.kill(engine.pid, signal.SIGKILL)
    results = await asyncio.gather(*map(tokens_of, streams[1:]), return_exceptions=True)
    assert [type(result) for result in results] == [InternalError] * 9
    assert str(results[0]) == "internal error, request id w0"
    with suppress(InternalError):  # it may have been done
        await tokens_of(running)
    await until(lambda: "ended with -9" in caplog.text)
    assert engine.is_alive()
    with pytest.raises(NotReady, match="starts again"):
        engine.submit(known[0].request)
    await until(engine.is_serving)
    assert engine.pid != first_pid
    assert await tokens_of(engine.submit(known[2].request)) == known[2].tokens
    assert not lost.is_set()
    os.kill(engine.pid, signal.SIGKILL)
    assert await asyncio.to_thread(lost.wait, 30)
    await until(lambda: not engine.is_alive())
    assert is_idle(engine)
    with pytest.raises(NotReady, match="has failed"):
        engine.submit(known[0].request)


async def test_two_servers_share_an_engine_and_one_that_dies_takes_only_its_own_along(
    start_process: StartProcess, known: list[Known]
) -> None:
    seen: list[StepStats] = []
    engine = start_process(on_step=seen.append)
    other_seen: list[StepStats] = []
    second = RemoteCore(engine.process.address, OPTIONS, other_seen.append)
    other = EngineClient([second])
    other.start()
    streams = [engine.submit(renamed(known[2], "mine")), other.submit(renamed(known[4], "other"))]
    assert await asyncio.gather(*map(tokens_of, streams)) == [known[2].tokens, known[4].tokens]
    assert seen, "nobody counts the steps"
    assert not other_seen, "a step is counted twice"
    left = other.submit(renamed(known[4], "left"))
    await anext(left)
    other.stop()
    with pytest.raises(NotReady):
        await tokens_of(left)
    assert await tokens_of(engine.submit(renamed(known[1], "mine"))) == known[1].tokens
    await until(lambda: is_idle(engine))


async def test_a_server_that_stands_still_holds_up_nobody(
    start_process: StartProcess, known: list[Known]
) -> None:
    """It reads nothing of what the engine writes to it, which is more than a socket holds."""
    engine = start_process()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        deaf.connect(str(engine.process.address))
        for i in range(60):
            stream = engine.submit(renamed(known[4], f"s{i}"))
            assert await tokens_of(stream) == known[4].tokens
    assert engine.is_alive()


async def test_samples_of_a_decoder_reach_the_engine_in_the_file_they_came_in(
    engine: Started, known: list[Known], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert memory_files("self") == memory_files(engine.pid) == 0


def step(known: Known, index: int, at: slice, **more: Any) -> ExtendRequest:
    """A part of a known request's audio as a step of a kept sequence."""
    request = known.request
    return ExtendRequest(
        request_id=f"step{index}",
        sequence_id="kept",
        samples=request.samples[at],
        tokens_before=request.tokens_before,
        tokens_after=request.tokens_after,
        max_new_tokens=request.max_new_tokens,
        **more,
    )


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


async def test_a_sequence_that_died_with_its_process_must_start_anew(
    start_process: StartProcess, known: list[Known]
) -> None:
    """Going on from nothing would answer as if the first half had never been said."""
    engine = start_process()
    await tokens_of(engine.extend(step(known[2], 1, slice(0, 8000))))
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: not engine.is_serving())
    await until(engine.is_serving)
    with pytest.raises(NotReady, match="lost what it had heard"):
        await tokens_of(engine.extend(step(known[2], 2, slice(8000, None))))
    anew = step(known[2], 3, slice(None), starts_anew=True)
    assert await tokens_of(engine.extend(anew)) == known[2].tokens


async def test_what_a_server_kept_goes_with_it(
    start_process: StartProcess, known: list[Known]
) -> None:
    engine = start_process(replace(OPTIONS, max_kept_sequences=1))
    other = EngineClient([RemoteCore(engine.process.address, OPTIONS)])
    other.start()
    await tokens_of(other.extend(step(known[2], 1, slice(0, 8000))))
    with pytest.raises(Overloaded):
        await tokens_of(engine.extend(step(known[1], 2, slice(None))))
    other.stop()
    engine.close("kept")

    async def is_free() -> bool:
        try:
            await tokens_of(engine.extend(step(known[1], 3, slice(None))))
        except Overloaded:
            return False
        return True

    while not await is_free():
        await asyncio.sleep(0.01)  # the test's time limit ends it


async def test_16_bit_samples_are_what_they_say(engine: Started, known: list[Known]) -> None:
    """Samples times 32768, in half the bytes: the same tokens as their values as floats."""
    rounded = np.rint(known[2].request.samples * 2.0**15).clip(-(2**15), 2**15 - 1)
    short = replace(known[2].request, request_id="16", samples=rounded.astype(np.int16))
    samples = (rounded / 2.0**15).astype(np.float32)
    long = replace(known[2].request, request_id="32", samples=samples)
    assert await tokens_of(engine.submit(short)) == await tokens_of(engine.submit(long))


async def test_a_process_that_hangs_shows(start_process: StartProcess, known: list[Known]) -> None:
    engine = start_process(replace(OPTIONS, stall_timeout_s=1.0))
    assert await tokens_of(engine.submit(known[7].request)) == known[7].tokens
    await until(engine.is_alive)
    with held(engine):
        await until(lambda: not engine.is_alive())
    await until(engine.is_alive)


@pytest.mark.parametrize("name", [HANGS, HANGS_WITH_THE_GIL])
async def test_a_step_that_never_ends_shows_and_the_engine_starts_again(
    start_process: StartProcess, known: list[Known], name: str
) -> None:
    options = replace(OPTIONS, stall_timeout_s=2.0)
    engine = start_process(options, worker="tests.engine.hanging_worker")
    first = engine.pid
    stream = engine.submit(renamed(known[7], name))
    beside = engine.submit(renamed(known[7], "beside"))
    await until(lambda: not engine.is_alive())
    assert not engine.is_serving()
    for each in (stream, beside):
        with pytest.raises(InternalError):
            await tokens_of(each)
    await until(engine.is_serving)
    assert engine.is_alive()
    assert engine.pid != first
    assert await tokens_of(engine.submit(known[7].request)) == known[7].tokens


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model_path": Path("/no/such/folder")}, CheckpointError, "/no/such/folder"),
        ({"dtype": "float8"}, ValueError, "float8"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    native: Path, changes: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        CoreProcess().load(replace(spec(native), **changes))  # type: ignore[arg-type]


def test_a_process_that_dies_while_loading_is_an_error(native: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 1 while loading"):
        CoreProcess(worker="predictor.no_such_module").load(spec(native))


async def test_stopping_ends_streams_in_flight(
    start_process: StartProcess, known: list[Known]
) -> None:
    engine = start_process()
    with held(engine):
        streams = [engine.submit(renamed(known[4], f"s{i}")) for i in range(6)]
        stopping = threading.Thread(target=engine.stop)
        stopping.start()
        await until(lambda: not engine.is_alive())
    for stream in streams:
        with pytest.raises(NotReady):
            await tokens_of(stream)
    await asyncio.to_thread(stopping.join)
    assert engine.stats().num_running == 0
    with pytest.raises(NotReady, match="shutting down"):
        engine.submit(known[0].request)


async def test_stopping_does_not_wait_for_ever_for_a_process_that_hangs(
    start_process: StartProcess, known: list[Known]
) -> None:
    engine = start_process()
    os.kill(engine.pid, signal.SIGSTOP)
    stream = engine.submit(known[4].request)
    engine.stop(timeout_s=0.01)
    with pytest.raises(NotReady):
        await tokens_of(stream)
    assert not Path(f"/proc/{engine.pid}").exists()


def test_before_its_start_it_is_not_alive_and_it_starts_once(native: Path) -> None:
    engine = Started(spec(native))
    assert not engine.is_alive()
    engine.start()
    with pytest.raises(RuntimeError, match="started before"):
        engine.start()
    engine.stop()
    assert not engine.is_alive()


async def test_signals_are_the_servers_to_handle(engine: Started, known: list[Known]) -> None:
    os.kill(engine.pid, signal.SIGTERM)
    os.kill(engine.pid, signal.SIGINT)
    assert await tokens_of(engine.submit(known[2].request)) == known[2].tokens


LOADED = "engine = Started(spec(folder)); engine.start()"
LOADING = (
    "process = CoreProcess(worker='tests.engine.stuck_worker')\n"
    "threading.Thread(target=process.load, args=(spec(folder),), daemon=True).start()"
)


@pytest.mark.parametrize("state", [LOADED, LOADING])
def test_it_ends_with_a_server_that_is_killed(native: Path, state: str) -> None:
    script = (
        "import os, signal, sys\n"
        "from tests.engine.test_process import *\n"
        "folder = Path(sys.argv[1])\n"
        f"{state}\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(native)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    # It returned, so nobody holds the output any more: the engine's process has ended too.
    assert done.returncode == -signal.SIGKILL


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
    streams = [engine.submit(renamed(known[1], f"s{i}")) for i in range(8)]
    await asyncio.gather(*map(tokens_of, streams))
    assert memory_files("self") == memory_files(engine.pid) == 0


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
