"""What waits between a connection and its session is bounded, whatever its messages are."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from predictor.api.live_connection import MAX_QUEUED_BYTES, WorkQueue
from predictor.audio.vad import VadState
from predictor.live.events import Event
from predictor.live.intake import Intake, WireFormat
from predictor.live.listener import Listener, LiveParts
from predictor.live.options import LiveOptions, SessionConfig
from predictor.metrics import Metrics
from tests.live.play import Studio


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


async def test_a_huge_message_does_not_hold_up_the_others(studio: Studio) -> None:
    """Two minutes of telephone audio at once are resampled piece by piece."""
    turns = 0
    registry, speech = CollectorRegistry(), _Speech()
    parts = LiveParts(
        studio.prompts,
        studio.tokenizer,
        lambda: None,  # type: ignore[arg-type,return-value]  nobody speaks, so nobody asks it
        speech,  # type: ignore[arg-type]
        LiveOptions(),
        Metrics(registry),
    )
    intake = Intake(WireFormat("pcmu", 8_000))

    async def emit(event: Event) -> None:
        raise AssertionError(event)

    listener = Listener(parts, intake, SessionConfig(), emit)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await listener.hear(bytes(120 * 8_000))
    beside.cancel()
    heard_s = registry.get_sample_value("qwen3_asr_live_audio_seconds_total")
    assert heard_s == pytest.approx(120, abs=0.064)
    assert speech.most <= 64
    assert turns > 40
