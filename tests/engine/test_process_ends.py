"""How an engine's process starts, dies, hangs, starts again and ends, and what its servers see."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from predictor.engine import (
    CoreProcess,
    EngineClient,
    RemoteCore,
    StepStats,
)
from predictor.errors import InternalError, NotReady, Overloaded
from predictor.model.config import CheckpointError
from tests.engine.asking import OPTIONS, Known, is_idle, renamed, tokens_of, until
from tests.engine.hanging_worker import HANGS, HANGS_WITH_THE_GIL
from tests.engine.own_process import Started, StartProcess, held, spec, step

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine(shared_process: Started) -> Started:
    """It is left as it was found."""
    return shared_process


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
        "import threading\n"
        "from pathlib import Path\n"
        "from predictor.engine import CoreProcess\n"
        "from tests.engine.own_process import Started, spec\n"
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
