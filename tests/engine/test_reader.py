"""An event loop reads what an engine's process writes, in place of a thread."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl

import pytest
import uvloop

from predictor.engine import StepStats
from predictor.errors import InternalError, NotReady
from tests.engine.asking import Known, renamed, tokens_of, until
from tests.engine.own_process import Started, StartProcess, held


class Threads:
    """In which threads steps were heard of."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, _: StepStats) -> None:
        self.seen.append(threading.get_ident())


async def read_here(engine: Started, threads: Threads, known: Known) -> None:
    """Returns when this loop reads; the answers before and after that are right."""
    engine.read_in(asyncio.get_running_loop())
    while threads.seen[-1:] != [threading.get_ident()]:
        assert await tokens_of(engine.submit(renamed(known, f"r{len(threads.seen)}"))) == (
            known.tokens
        )


async def test_a_loop_reads_and_goes_on_when_the_process_starts_again(
    start_process: StartProcess, known: list[Known]
) -> None:
    threads = Threads()
    engine = start_process(on_step=threads)
    assert await tokens_of(engine.submit(known[2].request)) == known[2].tokens
    await until(lambda: bool(threads.seen))
    assert threading.get_ident() not in threads.seen
    await read_here(engine, threads, known[2])
    streams = [engine.submit(renamed(k, f"all{i}")) for i, k in enumerate(known)]
    assert [await tokens_of(stream) for stream in streams] == [k.tokens for k in known]
    with held(engine):
        lost = engine.submit(renamed(known[4], "lost"))
        os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(InternalError):
        await tokens_of(lost)
    await until(engine.is_serving)
    threads.seen.clear()
    assert await tokens_of(engine.submit(known[1].request)) == known[1].tokens
    await until(lambda: bool(threads.seen))
    assert set(threads.seen) == {threading.get_ident()}
    assert engine.is_alive()


@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_stopping_ends_what_is_in_flight(
    where: str, start_process: StartProcess, known: list[Known]
) -> None:
    threads = Threads()
    engine = start_process(on_step=threads)
    await read_here(engine, threads, known[2])
    with suppress(ProcessLookupError), held(engine):  # it has been ended
        stream = engine.submit(renamed(known[4], "late"))
        if where == "loop":
            engine.stop(2.0)
        else:
            stopping = threading.Thread(target=engine.stop)
            stopping.start()
        with pytest.raises(NotReady):
            await tokens_of(stream)
    if where == "thread":
        await asyncio.to_thread(stopping.join)
    [core] = engine.cores
    assert not core._reader.is_alive()  # type: ignore[attr-defined]
    assert not engine.is_alive()


def test_a_loop_that_has_ended_keeps_nobody(
    start_process: StartProcess, known: list[Known]
) -> None:
    threads = Threads()
    engine = start_process(on_step=threads)
    asyncio.run(read_here(engine, threads, known[2]))
    with suppress(RuntimeError):
        engine.stop(30.0)
    [core] = engine.cores
    assert not core._reader.is_alive()  # type: ignore[attr-defined]


def is_full(channel: socket.socket) -> bool:
    """Whether whoever writes has to wait for a reader."""
    (num_bytes,) = struct.unpack("i", ioctl(channel, termios.TIOCOUTQ, bytes(4)))
    return bool(num_bytes >= channel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_requests_wait_for_an_engine_that_stands_still(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    start_process: StartProcess,
    known: list[Known],
) -> None:
    threads = Threads()
    engine = start_process(on_step=threads)
    [core] = engine.cores

    async def ask() -> None:
        await read_here(engine, threads, known[2])
        with held(engine):
            streams = [engine.submit(renamed(known[2], f"waits{i}")) for i in range(50)]
            await until(lambda: is_full(core._channel))  # type: ignore[attr-defined]
        assert [await tokens_of(stream) for stream in streams] == [known[2].tokens] * 50

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ask())
