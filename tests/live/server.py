"""A live client of the tests: OpenAI's own, and audio to send."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import torch
import torchaudio.functional as F
import websockets.exceptions
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from tests.api.conftest import Server

TRANSCRIPTION = "conversation.item.input_audio_transcription"
COMPLETED = f"{TRANSCRIPTION}.completed"


def client(url: str, key: str = "none", prefix: str = "/v1") -> AsyncOpenAI:
    """OpenAI's SDK, pointed at a server of ours."""
    return AsyncOpenAI(base_url=url + prefix, api_key=key, max_retries=0)


def pcm16(samples: np.ndarray, rate: int = 24_000) -> bytes:
    """16 kHz samples as PCM16 at another rate."""
    wide = (
        F.resample(torch.from_numpy(samples), 16_000, rate).numpy() if rate != 16_000 else samples
    )
    return (np.clip(wide, -1, 1) * 32767).astype("<i2").tobytes()


async def append(
    connection: AsyncRealtimeConnection, data: bytes, piece_bytes: int = 9_600
) -> None:
    """Audio in pieces."""
    for start in range(0, len(data), piece_bytes):
        piece = data[start : start + piece_bytes]
        await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())


async def until(connection: AsyncRealtimeConnection, kind: str, count: int = 1) -> list[Any]:
    """All events up to the `count`th of a kind."""
    events: list[Any] = []
    async for event in _events(connection):
        events.append(event)
        count -= event.type == kind
        if count == 0:
            return events
    raise AssertionError(f"the connection ended before {kind}: {[e.type for e in events]}")


async def _events(connection: AsyncRealtimeConnection) -> AsyncIterator[Any]:
    async for event in connection:
        yield event


def transcripts(events: list[Any]) -> list[str]:
    """The completed texts."""
    return [e.transcript for e in events if e.type == f"{TRANSCRIPTION}.completed"]


def deltas(events: list[Any]) -> dict[str, str]:
    """Item id -> its deltas joined."""
    said: dict[str, str] = {}
    for event in events:
        if event.type == f"{TRANSCRIPTION}.delta":
            said[event.item_id] = said.get(event.item_id, "") + event.delta
    return said


async def rest(connection: Any, events: list[Any]) -> None:
    """Add what comes until the server closes the connection in good order."""
    with contextlib.suppress(websockets.exceptions.ConnectionClosedOK):
        async for event in connection:
            events.append(event)  # noqa: PERF401  what came before the end counts


def session(**more: Any) -> Any:
    """A transcription session with these fields of `audio.input`."""
    return {"type": "transcription", "audio": {"input": more}}


async def hear(server: Server, data: bytes, items: int, **more: Any) -> list[Any]:
    """All events of this audio up to the `items`th completed one; `more`: `piece_bytes`, `prefix`,
    `include`, and fields of the session's `audio.input`."""
    piece_bytes = more.pop("piece_bytes", 9_600)
    prefix = more.pop("prefix", "/v1")
    include = more.pop("include", None)
    opening: Any = session(**more) | ({"include": include} if include else {})
    async with client(server.url, prefix=prefix).realtime.connect(
        extra_query={"intent": "transcription"}
    ) as connection:
        await connection.session.update(session=opening)
        await append(connection, data, piece_bytes)
        return await until(connection, COMPLETED, items)
