"""What waits between a connection and its session is bounded, whatever its messages are."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from predictor.api.live_connection import MAX_QUEUED_BYTES, WorkQueue
from predictor.audio.vad import VadState
from predictor.live.intake import Intake, WireFormat
from predictor.live.listener import Listener


async def _nothing() -> None:
    pass


@pytest.mark.parametrize("num_bytes", [0, 320, 1 << 20])
async def test_messages_wait_up_to_a_bound_even_if_they_are_empty(num_bytes: int) -> None:
    queue = WorkQueue()
    count = 0
    try:
        async with asyncio.timeout(2):
            while count < 1_000_000:
                await queue.put(_nothing, num_bytes)
                count += 1
                if count % 512 == 0:
                    await asyncio.sleep(0)
    except TimeoutError:
        pass
    assert 1 <= count <= MAX_QUEUED_BYTES // 1024
    running = asyncio.create_task(queue.run())
    await queue.put(_nothing, num_bytes)  # there is room again once somebody works
    await queue.end()
    await running


class _Speech:
    """Notes how much is heard at once; it is never speech."""

    def __init__(self) -> None:
        self.most = 0

    async def hear(self, frames: np.ndarray, state: VadState) -> tuple[np.ndarray, VadState]:
        self.most = max(self.most, len(frames))
        await asyncio.sleep(0)
        return np.zeros(len(frames), np.float32), state


async def test_a_huge_message_does_not_hold_up_the_others() -> None:
    """Two minutes of telephone audio at once are resampled piece by piece."""
    heard, turns = 0, 0

    class Session:
        has_events = False

        def hear(self, frame: np.ndarray, _: float) -> None:
            nonlocal heard
            heard += len(frame)

        def take_events(self) -> list[object]:
            return []

    listener = object.__new__(Listener)
    listener.session = Session()  # type: ignore[assignment]
    listener._speech = speech = _Speech()  # type: ignore[assignment]
    listener._intake = Intake(WireFormat("pcmu", 8_000))
    listener._vad = VadState.new()
    listener._metrics = _Metrics()  # type: ignore[assignment]

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await listener.hear(bytes(120 * 8_000))
    beside.cancel()
    assert heard == pytest.approx(120 * 16_000, abs=1024)
    assert speech.most <= 64
    assert turns > 40


class _Metrics:
    class live_audio_seconds:  # noqa: N801
        @staticmethod
        def inc(_: float) -> None:
            pass
