"""How sessions of `/v1/realtime` begin and end: keys, client secrets, limits, expiry, shutdown."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
import websockets
import websockets.exceptions

from tests.api.conftest import Server, StartServer
from tests.live.server import (
    COMPLETED,
    TRANSCRIPTION,
    append,
    client,
    pcm16,
    rest,
    transcripts,
    until,
)


def test_what_is_wrong_before_the_upgrade_is_a_status(server: Server) -> None:
    async def status(query: str) -> int:
        try:
            async with websockets.connect(
                server.url.replace("http", "ws") + "/v1/realtime" + query
            ):
                return 101
        except websockets.exceptions.InvalidStatus as error:
            return error.response.status_code

    assert asyncio.run(status("")) == 101
    assert asyncio.run(status("?intent=chat")) == 400
    assert asyncio.run(status("?model=gpt-x")) == 404
    assert asyncio.run(status("?resume=nonsense")) == 400


def test_a_vanished_client_frees_its_place_and_the_engines(server: Server, two: np.ndarray) -> None:
    async def run() -> None:
        connection = await client(server.url).realtime.connect().enter()
        await append(connection, pcm16(np.tile(two, 3)))
        await until(connection, f"{TRANSCRIPTION}.delta")
        assert server.metric("qwen3_asr_live_sessions") == 1
        connection._connection.transport.abort()
        while server.metric("qwen3_asr_live_sessions"):
            await asyncio.sleep(0.01)
        while server.metric("qwen3_asr_sequences_running"):
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_key_is_asked_for(guarded: Server) -> None:
    async def run(key: str) -> str:
        async with client(guarded.url, key).realtime.connect() as connection:
            return (await until(connection, "session.created"))[0].type

    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        asyncio.run(run("wrong"))
    assert refused.value.response.status_code == 401
    assert asyncio.run(run("right")) == "session.created"


def test_a_client_secret_opens_a_session_with_its_configuration(guarded: Server) -> None:
    async def run() -> Any:
        async with client(guarded.url, "right") as openai:
            made = await openai.realtime.client_secrets.create(
                expires_after={"anchor": "created_at", "seconds": 60},
                session={
                    "type": "transcription",
                    "audio": {"input": {"transcription": {"language": "zh"}}},
                },
            )
        assert made.value.startswith("ek_")
        async with client(guarded.url, made.value).realtime.connect() as connection:
            [created] = await until(connection, "session.created")
        key = f"openai-insecure-api-key.{made.value}"
        url = guarded.url.replace("http", "ws") + "/v1/realtime"
        async with websockets.connect(url, subprotocols=["realtime", key]) as socket:
            assert socket.subprotocol == "realtime"
        return created

    created = asyncio.run(run())
    assert created.session.audio.input.transcription.language == "zh"


@pytest.mark.parametrize("path", ["client_secrets", "transcription_sessions"])
def test_client_secrets_are_made_for_keys_only(guarded: Server, path: str) -> None:
    url = f"{guarded.url}/v1/realtime/{path}"
    assert httpx.post(url, json={}).status_code == 401
    headers = {"authorization": "Bearer right"}
    made = httpx.post(url, json={}, headers=headers).json()
    value = made.get("value") or made["client_secret"]["value"]
    tampered = value[:-4] + ("AAAA" if value[-4:] != "AAAA" else "BBBB")
    for secret in (tampered, "ek_", "ek_x.y"):
        refused = httpx.post(url, json={}, headers={"authorization": f"Bearer {secret}"})
        assert refused.status_code == 401
        with pytest.raises(websockets.exceptions.InvalidStatus):
            asyncio.run(_connect(guarded, secret))
    bad = httpx.post(url, json={"session": {"type": "realtime"}}, headers=headers)
    assert bad.status_code == 400


async def _connect(server: Server, key: str) -> None:
    async with client(server.url, key).realtime.connect():
        pass


def test_sessions_beyond_the_limit_are_refused_before_the_upgrade(guarded: Server) -> None:
    async def run() -> Any:
        async with (
            client(guarded.url, "right").realtime.connect(),
            client(guarded.url, "right").realtime.connect(),
        ):
            with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                await _connect(guarded, "right")
        return refused.value.response

    answer = asyncio.run(run())
    assert answer.status_code == 429
    assert answer.headers["retry-after"]
    assert b"max_live_sessions" in answer.body


def test_a_session_that_expires_is_resumed_by_another_replica(
    guarded: Server, server: Server, two: np.ndarray
) -> None:
    async def run() -> tuple[list[Any], Any, list[Any]]:
        first = await client(guarded.url, "right").realtime.connect().enter()
        await append(first, pcm16(two[: 5 * 16_000]))
        events: list[Any] = []
        await rest(first, events)
        closed = first._connection.close_code
        token = next(e for e in reversed(events) if e.type == "session.expiring").resume
        async with client(server.url).realtime.connect(extra_query={"resume": token}) as second:
            await append(second, pcm16(two))
            return events, closed, await until(second, COMPLETED)

    events, closed, after = asyncio.run(run())
    assert closed == 1001
    warnings = [e for e in events if e.type == "session.expiring"]
    assert [e.reason for e in warnings] == ["expired", "expired"]
    assert warnings[0].expires_in_s == 3
    assert warnings[-1].audio_done_ms == pytest.approx(5000, abs=40)
    started = next(e for e in after if e.type == "input_audio_buffer.speech_started")
    assert started.audio_start_ms >= warnings[-1].audio_done_ms
    assert transcripts(after) == ["Today is Tuesday, May thirty-first."]
    count = len(transcripts(events))
    assert started.item_id.endswith(f"_{count + 1}")


def test_shutting_down_finishes_the_utterance_in_flight(
    start_server: StartServer, two: np.ndarray
) -> None:
    server = start_server()

    async def run() -> tuple[list[Any], Any]:
        connection = await client(server.url).realtime.connect().enter()
        await append(connection, pcm16(two[: round(2.5 * 16_000)]))
        events = await until(connection, f"{TRANSCRIPTION}.delta")
        server.process.terminate()
        await rest(connection, events)
        return events, connection._connection.close_code

    events, code = asyncio.run(run())
    assert code == 1001
    kinds = [e.type for e in events]
    assert kinds.index("session.expiring") < kinds.index(COMPLETED)
    assert transcripts(events)[0].startswith("Today is Tuesday")
    assert server.end() == 0
