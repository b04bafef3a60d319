"""A few kB never make a decoder process large: a header's promises are not believed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from predictor.audio.decode import AudioDecoder
from predictor.audio.memory_guard import MAX_JOB_BYTES, MemoryGuard, held_bytes
from predictor.errors import AudioError
from predictor.processes.heap import give_freed_memory_back
from tests.audio.bombs import BOMBS

MIB = 1024 * 1024


@contextlib.contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """Resident memory of a process at first and at most, in bytes."""
    seen, is_over = [resident(pid)], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.002):
            with contextlib.suppress(OSError, ValueError):
                seen[1:] = [max(seen[-1], resident(pid))]

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize("kind", BOMBS)
def test_a_header_does_not_make_a_process_large(
    kind: str, start_decoder: Callable[..., AudioDecoder]
) -> None:
    """They took 2,754, 1,554 and 304 MiB."""
    decoder, bomb = start_decoder(num_workers=1), BOMBS[kind]()
    [pid] = decoder.worker_pids
    with watched(pid) as most:
        with pytest.raises(AudioError, match="memory"):
            asyncio.run(decoder.decode(bomb))
        before = most[0]
    assert most[-1] - before < MAX_JOB_BYTES + len(bomb)


def test_after_a_bomb_others_are_decoded_as_before(
    start_decoder: Callable[..., AudioDecoder], files: dict[str, bytes]
) -> None:
    decoder, bombs = start_decoder(num_workers=1), [make() for make in BOMBS.values()]

    async def run() -> None:
        lengths = {name: len(await decoder.decode(data)) for name, data in files.items()}
        for bomb in bombs:
            with pytest.raises(AudioError, match="memory"):
                await decoder.decode(bomb)
            for name, data in files.items():
                assert len(await decoder.decode(data)) == lengths[name]

    asyncio.run(run())


def test_what_was_freed_counts_for_nobody(
    start_decoder: Callable[..., AudioDecoder], files: dict[str, bytes]
) -> None:
    """The process keeps it for the next recording: hundreds of them change nothing."""
    decoder = start_decoder(num_workers=1)
    [pid] = decoder.worker_pids

    async def run() -> None:
        for index in range(300):
            data = files[sorted(files)[index % len(files)]]
            with contextlib.suppress(AudioError):
                await decoder.decode(data if index % 2 else data[: len(data) // 2])

    asyncio.run(run())
    assert decoder.worker_pids == [pid]


def test_sound_that_waits_is_not_the_headers_fault() -> None:
    """A long piece may be held: it is admitted by its seconds."""
    given_up: list[bool] = []
    give_freed_memory_back()  # the guard does it, too: what tests before freed would hide the rest
    with MemoryGuard(held_bytes(), 1000, lambda: given_up.append(True)) as guard:
        guard.allow_sound(8 * MIB)
        kept = bytearray(200 * MIB)
        time.sleep(0.1)
        assert not given_up
        del kept
    give_freed_memory_back()
    with MemoryGuard(held_bytes(), 1000, lambda: given_up.append(True)):
        kept = bytearray(200 * MIB)
        while not given_up:  # the test's time limit ends it
            time.sleep(0.01)
        del kept
