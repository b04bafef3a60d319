"""Bodies that come in slowly: borne while there is memory, hurried when it becomes short."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from predictor.api.body_limit import BodyLimit
from predictor.api.held_bytes import HeldBytes

MB = 1_000_000
FIRST = bytes(20 * MB)  # at once; the rest in pieces
PIECE, EVERY_S, NUM_PIECES = bytes(4_000), 0.02, 20  # 200 kB a second at most


async def upload(held: HeldBytes) -> int:
    """The answer's status to who sends most of a body at once and the rest slowly."""
    pieces = [FIRST, *[PIECE] * NUM_PIECES]

    async def receive() -> Message:
        piece = pieces.pop(0)
        if piece is PIECE:
            await asyncio.sleep(EVERY_S)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    statuses: list[int] = []

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    limited = BodyLimit(app, max_body_bytes=64 * MB, held=held, client_timeout_s=0.1)
    await limited(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize(("limit", "status"), [(500 * MB, 200), (30 * MB, 408)])
async def test_a_slow_body_must_hurry_when_memory_is_short(limit: int, status: int) -> None:
    held = HeldBytes(limit)
    assert await upload(held) == status
    assert held.num_bytes == 0


async def test_who_promises_and_sends_nothing_leaves_room() -> None:
    held = HeldBytes(512, max_promised=256)
    async with held.room(200, 0.1), held.room(50, 0.1) as hold:
        held.check(200)  # a body whose size is known
        with pytest.raises(Exception, match="awaited"):
            async with held.room(50, 0.01):
                pass
        hold(10)
        async with held.room(50, 0.01):
            assert held.num_bytes == 260
    assert held.num_bytes == 0
