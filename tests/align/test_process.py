"""The aligner's process: times equal to those computed here; it comes back once, and is bounded."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from predictor.align.client import AlignerClient
from predictor.align.model import Aligner
from predictor.align.passes import Marked, aligned
from predictor.align.process import AlignerProcess
from predictor.align.wire import (
    AlignerInfo,
    AlignerSpec,
    Question,
    samples_file,
    send,
    words_file,
)
from predictor.align.words import split_words
from predictor.align.worker import Desk
from predictor.errors import InternalError, NotReady, Overloaded

PREDICTOR = Path(__file__).parents[2] / "predictor"
TINY = PREDICTOR / "checkpoints" / "tiny-aligner"
SPEC = AlignerSpec(str(TINY), "cpu", "float32", 1, 120.0, 256, 0.0, "json", "warning")
SECOND = np.zeros(16_000, dtype=np.float32)


def clips() -> list[Marked]:
    found = []
    for row in json.loads((PREDICTOR / "recordings" / "recordings.json").read_text("utf-8")):
        samples, _ = soundfile.read(PREDICTOR / "recordings" / row["audio"], dtype="float32")
        found.append(Marked(samples, tuple(split_words(row["text"], None))))
    return found


@pytest.fixture
def process() -> Iterator[AlignerProcess]:
    started = AlignerProcess()
    started.spawn(SPEC)
    started.wait_loaded()
    yield started
    started.stop()


async def all_times(client: AlignerClient, items: list[Marked]) -> list[np.ndarray]:
    return await asyncio.gather(*(client.times(item.samples, item.words) for item in items))


def test_times_are_those_of_the_model_and_survive_one_death(process: AlignerProcess) -> None:
    client, items = AlignerClient(process.address), clips()
    assert client.wait_ready() == AlignerInfo(("Chinese", "English"), 32.0)
    model = Aligner(TINY, device="cpu", dtype=torch.float32)
    expected = aligned(model, items)

    async def check() -> None:
        for ours, theirs in zip(await all_times(client, items), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        os.kill(process.pid, signal.SIGKILL)
        for ours, theirs in zip(await all_times(client, items), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(NotReady):
            await all_times(client, items)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"folder": str(PREDICTOR / "checkpoints" / "tiny")}, "not an aligner"),
        ({"precision": "fp8"}, "precision on cpu must be auto or one of .*, is 'fp8'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_reason(wrong: dict[str, str], said: str) -> None:
    process = AlignerProcess()
    process.spawn(replace(SPEC, **wrong))
    with pytest.raises(RuntimeError, match=said) as caught:
        process.wait_loaded()
    assert "\n" not in str(caught.value)


class Gate:
    """A model that waits until it may go on, and fails on words it does not like."""

    max_audio_s = 400.0

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.entered, self.open = threading.Semaphore(0), threading.Event()

    def begin(self, batch: list[Marked]) -> Behind:
        self.batches.append(len(batch))
        self.entered.release()
        return Behind(self, batch)


class Behind:
    """A batch behind the gate."""

    def __init__(self, gate: Gate, batch: list[Marked]) -> None:
        self._gate, self._batch = gate, batch

    @property
    def is_done(self) -> bool:
        return self._gate.open.is_set()

    def result(self) -> list[np.ndarray]:
        assert self._gate.open.wait(30)
        if any("bad" in item.words for item in self._batch):
            raise ValueError("a word it does not like")
        return [np.tile([0.08, 0.16], (len(item.words), 1)) for item in self._batch]


class AtOnce(Gate):
    """Where there is no device: a batch is done when it has begun, which takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.open.set()
        self.passes = threading.Semaphore(0)

    def begin(self, batch: list[Marked]) -> Behind:
        behind = super().begin(batch)
        assert self.passes.acquire(timeout=30)
        return behind


@contextmanager
def desk_in(
    folder: Path, *, max_waiting: int, gather_s: float = 0.0, gate: Gate | None = None
) -> Iterator[tuple[Gate, AlignerClient]]:
    """A desk in a thread of ours, which takes two seconds of audio at once."""
    gate = gate or Gate()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(folder / "aligner"))
    listener.listen(16)
    ours, theirs = socket.socketpair()
    info = AlignerInfo(("English",), 400.0)
    made = Desk(
        listener, theirs, gate, info, max_batch_s=2.0, max_waiting=max_waiting, gather_s=gather_s
    )
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield gate, AlignerClient(folder / "aligner")
    finally:
        gate.open.set()
        ours.close()
        thread.join(30)
        theirs.close()
        listener.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Gate, AlignerClient]]:
    """One in which two may wait."""
    with desk_in(tmp_path, max_waiting=2) as made:
        yield made


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.acquire, timeout=30)


def test_the_line_is_bounded_and_runs_together(desk: tuple[Gate, AlignerClient]) -> None:
    gate, client = desk

    async def check() -> None:
        first = asyncio.create_task(client.times(SECOND, ["a"]))
        await entered(gate)
        rest = [asyncio.create_task(client.times(SECOND, ["a", "b"])) for _ in range(5)]
        gate.open.set()
        answers = await asyncio.gather(first, *rest, return_exceptions=True)
        assert all(isinstance(a, np.ndarray | Overloaded) for a in answers), answers
        assert isinstance(answers[0], np.ndarray)
        assert max(gate.batches) <= 2  # two seconds of audio at a time
        assert sum(gate.batches) == sum(isinstance(a, np.ndarray) for a in answers)

    asyncio.run(check())


def test_a_request_that_fails_does_not_take_others_along(desk: tuple[Gate, AlignerClient]) -> None:
    gate, client = desk
    gate.open.set()

    async def check() -> None:
        good, bad = await asyncio.gather(
            client.times(SECOND, ["good"]), client.times(SECOND, ["bad"]), return_exceptions=True
        )
        np.testing.assert_array_equal(good, [[0.08, 0.16]])
        assert isinstance(bad, InternalError)

    asyncio.run(check())


def test_a_caller_who_left_costs_nothing(desk: tuple[Gate, AlignerClient]) -> None:
    gate, client = desk

    async def check() -> None:
        first = asyncio.create_task(client.times(SECOND, ["a"]))
        await entered(gate)
        second = asyncio.create_task(client.times(np.tile(SECOND, 2), ["a"]))
        await entered(gate)  # behind the first, on the device: a third waits
        left = asyncio.create_task(client.times(SECOND, ["b"]))
        await asyncio.wait({left}, timeout=0.2)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        gate.open.set()
        await asyncio.gather(first, second)
        await client.times(SECOND, ["c"])
        assert gate.batches == [1, 1, 1]

    asyncio.run(check())


def test_a_batch_that_is_not_full_waits_for_the_one_that_runs(tmp_path: Path) -> None:
    with desk_in(tmp_path, max_waiting=8) as (gate, client):

        async def check() -> None:
            first = asyncio.create_task(client.times(SECOND, ["a"]))
            await entered(gate)
            half = SECOND[:8_000]
            behind = [asyncio.create_task(client.times(half, ["b"])) for _ in range(4)]
            await entered(gate)  # the fourth has filled it
            last = asyncio.create_task(client.times(half, ["c"]))
            gate.open.set()
            await asyncio.gather(first, *behind, last)
            assert gate.batches == [1, 4, 1]

        asyncio.run(check())


def test_requests_that_follow_each_other_closely_gather_to_a_full_batch(tmp_path: Path) -> None:
    with desk_in(tmp_path, max_waiting=8, gather_s=1e6) as (gate, client):
        gate.open.set()

        async def check() -> None:
            await client.times(SECOND, ["a"])  # nobody came before: at once
            pair = [asyncio.create_task(client.times(SECOND, ["b"])) for _ in range(2)]
            await asyncio.gather(*pair)
            assert gate.batches == [1, 2]

        asyncio.run(check())


def test_a_line_that_is_full_waits_for_nobody(tmp_path: Path) -> None:
    with desk_in(tmp_path, max_waiting=2, gather_s=1e6) as (gate, client):
        gate.open.set()

        async def check() -> None:
            await client.times(SECOND, ["a"])
            half = SECOND[:8_000]
            await asyncio.gather(*(client.times(half, ["b"]) for _ in range(2)))
            assert gate.batches == [1, 2]

        asyncio.run(check())


def test_an_answer_does_not_wait_for_the_next_batch(tmp_path: Path) -> None:
    gate = AtOnce()
    with (
        desk_in(tmp_path, max_waiting=8, gate=gate) as (_, client),
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
        samples_file(SECOND) as samples,
        words_file(["b"]) as words,
    ):

        async def check() -> None:
            first = asyncio.create_task(client.times(SECOND, ["a"]))
            await entered(gate)
            other.connect(str(tmp_path / "aligner"))
            send(other, Question(len(SECOND), 1), samples, words)
            gate.passes.release()
            try:
                async with asyncio.timeout(20):
                    await first
                await entered(gate)  # the next one, which still runs
            finally:
                gate.passes.release()
            assert gate.batches == [1, 1]

        asyncio.run(check())
