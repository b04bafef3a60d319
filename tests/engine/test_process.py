"""An engine in a process of its own keeps the promises of one in the server's."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from predictor.engine import EngineOptions, EngineProcess, EngineSpec, StepStats
from predictor.engine.link.child import Child
from predictor.engine.link.process import WORKER
from predictor.engine.link.wire import Failed, Submit
from predictor.errors import InternalError, InvalidInput, NotReady, Overloaded
from predictor.model.config import CheckpointError
from tests.engine.conftest import OPTIONS, Known
from tests.engine.test_engine import chunks_of, is_idle, renamed, tokens_of, until

ROOT = Path(__file__).parents[2]
StartProcess = Callable[..., EngineProcess]


def spec(folder: Path, options: EngineOptions = OPTIONS) -> EngineSpec:
    return EngineSpec(folder, "cpu", "float32", options, num_threads=1)


@pytest.fixture
def start_process(native: Path) -> Iterator[StartProcess]:
    """Start an engine's process on `native`; stopped when the test ends."""
    started: list[EngineProcess] = []

    def start(
        options: EngineOptions = OPTIONS, on_step: Callable[[StepStats], None] | None = None
    ) -> EngineProcess:
        started.append(EngineProcess(spec(native, options), on_step))
        started[-1].start()
        return started[-1]

    yield start
    for engine in started:
        engine.stop()


@pytest.fixture(scope="module")
def engine(native: Path) -> Iterator[EngineProcess]:
    """One that tests share which leave it as they found it."""
    engine = EngineProcess(spec(native))
    engine.start()
    yield engine
    engine.stop()


@contextmanager
def held(engine: EngineProcess) -> Iterator[None]:
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


async def test_the_tokens_are_those_of_the_engine_here(
    engine: EngineProcess, known: list[Known]
) -> None:
    streams = [engine.submit(k.request) for k in known]
    assert [await tokens_of(stream) for stream in streams] == [k.tokens for k in known]
    assert engine.is_alive()
    assert is_idle(engine)


async def test_the_last_chunk_counts_and_probabilities_come_along(
    engine: EngineProcess, known: list[Known]
) -> None:
    chunks = await chunks_of(engine.submit(known[0].request))
    assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish in ("stop", "length")
    assert (chunks[-1].num_audio_tokens, chunks[-1].num_prompt_tokens) == (13, 13 + 3 + 2)
    assert all(len(c.token_ids) == len(c.logprobs) for c in chunks)
    assert all(logprob <= 0 for c in chunks for logprob in c.logprobs)


async def test_many_streams_at_once_from_two_event_loops(
    engine: EngineProcess, known: list[Known]
) -> None:
    async def ask(loop: str) -> list[tuple[int, ...]]:
        streams = [engine.submit(renamed(known[i % len(known)], f"{loop}{i}")) for i in range(40)]
        return await asyncio.gather(*map(tokens_of, streams))

    expected = [known[i % len(known)].tokens for i in range(40)]
    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(ask("other"))))
    assert await ask("this") == expected
    assert await other == expected
    assert is_idle(engine)


@pytest.mark.parametrize("how", ["aclose", "cancel", "abort"])
async def test_leaving_frees_the_place_and_the_rest_goes_on(
    engine: EngineProcess, known: list[Known], how: str
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
    assert engine.stats().num_finished >= num_finished + 1
    assert await tokens_of(stayer) == known[2].tokens
    rest = await chunks_of(leaver)
    assert [c.finish for c in rest if c.finish] == (["abort"] if how == "abort" else [])
    assert is_idle(engine)


async def test_a_full_queue_refuses_at_once_and_recovers(
    start_process: StartProcess, known: list[Known]
) -> None:
    engine = start_process(replace(OPTIONS, max_waiting_requests=2))
    with held(engine):
        streams = [engine.submit(renamed(known[7], f"w{i}")) for i in range(2)]
        with pytest.raises(Overloaded) as error:
            engine.submit(renamed(known[7], "one too many"))
        assert engine.stats().num_waiting == 2
        engine.abort("w1")
        streams[1] = engine.submit(renamed(known[7], "w2"))
    assert 1 <= error.value.retry_after_s <= 60
    for stream in streams:
        assert await tokens_of(stream) == known[7].tokens
    assert await tokens_of(engine.submit(renamed(known[7], "one too many"))) == known[7].tokens


async def test_what_never_fits_is_refused_at_submit(
    engine: EngineProcess, known: list[Known]
) -> None:
    with pytest.raises(InvalidInput) as error:
        engine.submit(replace(known[0].request, tokens_before=(1,) * 640))
    assert (error.value.field, error.value.value, error.value.limit) == ("audio", 655, 639)
    stream = engine.submit(renamed(known[0], "twice"))
    with pytest.raises(InvalidInput) as error:
        engine.submit(renamed(known[0], "twice"))
    assert error.value.field == "request_id"
    assert await tokens_of(stream) == known[0].tokens


async def test_a_process_that_is_killed_fails_what_is_in_flight(
    start_process: StartProcess, known: list[Known], caplog: pytest.LogCaptureFixture
) -> None:
    engine = start_process()
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
    assert not engine.is_alive()
    assert is_idle(engine)
    with pytest.raises(NotReady, match="has failed"):
        engine.submit(known[0].request)
    await until(lambda: "ended with -9" in caplog.text)


async def test_a_process_that_hangs_shows(start_process: StartProcess, known: list[Known]) -> None:
    engine = start_process(replace(OPTIONS, stall_timeout_s=0.2))
    assert await tokens_of(engine.submit(known[7].request)) == known[7].tokens
    await until(engine.is_alive)
    with held(engine):
        await until(lambda: not engine.is_alive())
    await until(engine.is_alive)


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
        EngineProcess(replace(spec(native), **changes))  # type: ignore[arg-type]


def test_a_process_that_dies_while_loading_is_an_error(native: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 1 while loading"):
        EngineProcess(spec(native), worker="predictor.no_such_module")


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
    engine = EngineProcess(spec(native))
    assert not engine.is_alive()
    engine.start()
    with pytest.raises(RuntimeError, match="started before"):
        engine.start()
    engine.stop()
    assert not engine.is_alive()


async def test_signals_are_the_servers_to_handle(engine: EngineProcess, known: list[Known]) -> None:
    os.kill(engine.pid, signal.SIGTERM)
    os.kill(engine.pid, signal.SIGINT)
    assert await tokens_of(engine.submit(known[2].request)) == known[2].tokens


LOADED = "engine = EngineProcess(spec(folder)); engine.start()"
LOADING = "child = Child('tests.engine.stuck_worker'); child.send(spec(folder))"


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
        cwd=ROOT, capture_output=True, text=True, timeout=120,
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
    await asyncio.to_thread(engine.stop)
    prefill = seen[0]
    assert (prefill.phase, prefill.num_seqs, prefill.num_prompt_tokens) == ("prefill", 1, 18)
    assert len(prefill.queue_s) == 1
    assert {step.phase for step in seen[1:]} == {"decode"}
    assert sum(step.num_new_tokens for step in seen) >= sum(len(c.token_ids) for c in chunks)
    assert "observer failed" in caplog.text


def test_a_listener_whose_loop_is_gone_is_dropped(
    engine: EngineProcess, known: list[Known]
) -> None:
    async def submit_and_leave() -> None:
        engine.submit(renamed(known[4], "left"))

    with held(engine):
        asyncio.run(submit_and_leave())
    asyncio.run(until(lambda: is_idle(engine)))
    assert engine.is_alive()


async def test_samples_are_gone_once_they_are_taken(
    engine: EngineProcess, known: list[Known]
) -> None:
    streams = [engine.submit(renamed(known[1], f"s{i}")) for i in range(8)]
    await asyncio.gather(*map(tokens_of, streams))
    assert memory_files("self") == memory_files(engine.pid) == 0


def test_the_process_does_not_hold_our_secrets(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3_ASR_API_KEYS", "a-secret-of-ours")
    engine = EngineProcess(spec(native))
    try:
        assert b"a-secret-of-ours" not in Path(f"/proc/{engine.pid}/environ").read_bytes()
    finally:
        engine.stop()


def test_a_request_whose_samples_are_lost_fails_alone(native: Path) -> None:
    child = Child(WORKER)
    child.load(spec(native))
    try:
        for number in (1, 2):
            child.send(Submit(number, f"r{number}", 16_000, (1,), (2,), 5))
        failed: list[Failed] = []
        while len(failed) < 2:
            messages = child.receive()
            assert messages is not None
            failed += [message for message in messages if isinstance(message, Failed)]
    finally:
        child.end(10)
        child.close()
    assert [f.number for f in failed] == [1, 2]
    assert all(isinstance(f.error, InternalError) for f in failed)
