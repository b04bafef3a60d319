"""`/v1/realtime` as OpenAI's own Python SDK speaks it, against a running server."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import av
import httpx
import numpy as np
import pytest
import websockets
import websockets.exceptions
from openai import NotFoundError

from tests.api.conftest import Server, StartServer
from tests.live.server import (
    COMPLETED,
    TRANSCRIPTION,
    append,
    client,
    deltas,
    pcm16,
    rest,
    transcripts,
    until,
)
from tests.live.streams import alone, join

G711 = [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")]
SILENCE = np.zeros(16_000, np.float32)


def session(**more: Any) -> Any:
    """A transcription session with these fields of `audio.input`."""
    return {"type": "transcription", "audio": {"input": more}}


@pytest.fixture(scope="module")
def two() -> np.ndarray:
    """An English and a Chinese sentence."""
    return np.concatenate([join("two", ["en-short-003", "zh-short-002"], 1).samples, SILENCE])


@pytest.fixture(scope="module")
def plain(server: Server, two: np.ndarray) -> list[Any]:
    """The events of it, in packets of 0.2 s."""
    return asyncio.run(_hear(server, pcm16(two), 2, transcription={"model": "qwen3-asr"}))


@pytest.fixture(scope="module")
def texts(plain: list[Any]) -> list[str]:
    """What the server hears in it."""
    return transcripts(plain)


async def _hear(server: Server, data: bytes, items: int, **more: Any) -> list[Any]:
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


def test_the_sdk_hears_each_utterance(plain: list[Any]) -> None:
    events = plain
    assert [event.type for event in events[:2]] == ["session.created", "session.updated"]
    [first, second] = [event for event in events if event.type == COMPLETED]
    assert first.transcript == "Today is Tuesday, May thirty-first."
    assert [language.code for language in first.languages] == ["en"]
    assert [language.code for language in second.languages] == ["zh"]
    assert deltas(events) == {e.item_id: e.transcript for e in (first, second)}
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    order = [e.type for e in events if getattr(e, "item_id", None) == first.item_id]
    assert order[0] == "input_audio_buffer.speech_started"
    assert order[-1] == COMPLETED
    assert order.index("input_audio_buffer.speech_stopped") < order.index(
        "input_audio_buffer.committed"
    )
    committed = [e for e in events if e.type == "input_audio_buffer.committed"]
    assert [e.previous_item_id for e in committed] == [None, first.item_id]


def test_the_tail_is_an_event_of_our_own(plain: list[Any]) -> None:
    tails = [e for e in plain if e.type == f"{TRANSCRIPTION}.tail"]
    assert any(e.tail for e in tails)
    assert tails[-1].tail == ""
    assert all(0 < word["confidence"] <= 1 for e in tails for word in e.words)


@pytest.mark.parametrize("piece_bytes", [481, 10_000_000])
def test_packets_of_any_size_give_the_same_events(
    server: Server, two: np.ndarray, plain: list[Any], piece_bytes: int
) -> None:
    other = asyncio.run(_hear(server, pcm16(two), 2, piece_bytes=piece_bytes))
    assert [_said(e) for e in other] == [_said(e) for e in plain]


def _said(event: Any) -> tuple[Any, ...]:
    names = ("delta", "tail", "transcript", "audio_start_ms", "audio_end_ms")
    return (event.type, *(getattr(event, name, None) for name in names))


@pytest.mark.parametrize(
    ("kind", "codec"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")]
)
def test_telephone_audio(server: Server, two: np.ndarray, kind: str, codec: str) -> None:
    narrow = np.frombuffer(pcm16(two, 8_000), "<i2")
    encoder = av.CodecContext.create(codec, "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(narrow[None].copy(), "s16", "mono")
    frame.sample_rate = 8_000
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    events = asyncio.run(_hear(server, data, 2, format={"type": kind}))
    assert "Tuesday" in transcripts(events)[0]


def test_log_probabilities_are_included_when_asked_for(
    server: Server, two: np.ndarray, plain: list[Any]
) -> None:
    include = ["item.input_audio_transcription.logprobs"]
    events = asyncio.run(_hear(server, pcm16(two), 1, include=include))
    [completed] = [e for e in events if e.type == COMPLETED]
    assert bytes(b for p in completed.logprobs for b in p.bytes).decode() == completed.transcript
    assert all(p.logprob <= 0 for p in completed.logprobs)
    assert next(e for e in plain if e.type == COMPLETED).logprobs is None


def test_it_is_served_under_openai_as_well(
    server: Server, two: np.ndarray, texts: list[str]
) -> None:
    assert transcripts(asyncio.run(_hear(server, pcm16(two), 2, prefix="/openai/v1"))) == texts


def test_manual_turns_end_when_the_client_says_so(
    server: Server, two: np.ndarray, texts: list[str]
) -> None:
    async def run() -> list[Any]:
        async with client(server.url).realtime.connect() as connection:
            await connection.session.update(session=session(turn_detection=None))
            await append(connection, pcm16(two))
            await connection.input_audio_buffer.commit()
            return await until(connection, COMPLETED)

    events = asyncio.run(run())
    assert "input_audio_buffer.speech_started" not in [e.type for e in events]
    assert transcripts(events) == ["".join(texts)]


def test_an_empty_buffer_is_not_committed_and_a_cleared_one_is_gone(server: Server) -> None:
    async def run() -> list[Any]:
        async with client(server.url).realtime.connect() as connection:
            await connection.session.update(session=session(turn_detection=None))
            await connection.input_audio_buffer.commit()
            events = await until(connection, "error")
            await append(connection, pcm16(alone("en-short-003").samples))
            await connection.input_audio_buffer.clear()
            await connection.input_audio_buffer.commit()
            return events + await until(connection, "error")

    events = asyncio.run(run())
    codes = [e.error.code for e in events if e.type == "error"]
    assert codes == ["input_audio_buffer_commit_empty"] * 2
    assert "input_audio_buffer.cleared" in [e.type for e in events]
    assert transcripts(events) == []


def test_language_and_hot_words_change_in_the_middle(server: Server, two: np.ndarray) -> None:
    async def run() -> list[Any]:
        async with client(server.url).realtime.connect() as connection:
            forced = {"language": "zh", "keywords": ["Tuesday"], "delay": "minimal"}
            await connection.session.update(session=session(transcription=forced))
            await append(connection, pcm16(two))
            events = await until(connection, COMPLETED, 2)
            await connection.session.update(session=session(transcription={"language": None}))
            await append(connection, pcm16(two))
            return events + await until(connection, COMPLETED, 2)

    events = asyncio.run(run())
    completed = [e for e in events if e.type == COMPLETED]
    assert [e.language for e in completed] == ["Chinese", "Chinese", "English", "Chinese"]
    updated = [e for e in events if e.type == "session.updated"]
    assert updated[0].session.audio.input.transcription.keywords == ["Tuesday"]
    assert updated[0].session.audio.input.transcription.delay == "minimal"


BAD = [
    ("{", "event"),
    ("[]", "event"),
    ('{"type": 5}', "type"),
    ('{"type": "response.create"}', "type"),
    ('{"type": "input_audio_buffer.append"}', "audio"),
    ('{"type": "input_audio_buffer.append", "audio": "?!"}', "audio"),
    ('{"type": "session.update"}', "session"),
    ('{"type": "session.update", "session": {"type": "realtime"}}', "session.type"),
    ('{"type": "session.update", "session": {"voice": "x"}}', "session.voice"),
    (
        '{"type": "session.update", "session": {"audio": {"input": {"turn_detection": '
        '{"type": "semantic_vad"}}}}}',
        "session.audio.input.turn_detection.type",
    ),
    (
        '{"type": "session.update", "session": {"audio": {"input": {"turn_detection": '
        '{"threshold": 7}}}}}',
        "turn_detection.threshold",
    ),
    (
        '{"type": "session.update", "session": {"audio": {"input": {"transcription": '
        '{"language": "xx"}}}}}',
        "session.audio.input.transcription.language",
    ),
    (
        '{"type": "session.update", "session": {"audio": {"input": {"format": '
        '{"type": "audio/mp3"}}}}}',
        "session.audio.input.format.type",
    ),
]


def test_malformed_events_are_answered_and_not_fatal(
    server: Server, two: np.ndarray, texts: list[str]
) -> None:
    async def run() -> list[dict[str, Any]]:
        answers = []
        async with websockets.connect(server.url.replace("http", "ws") + "/v1/realtime") as socket:
            await socket.recv()
            for text, _ in BAD:
                await socket.send(text)
                answers.append(json.loads(await socket.recv()))
            await socket.send(b"\xff\xfe")
            answers.append(json.loads(await socket.recv()))
            append = {
                "type": "input_audio_buffer.append",
                "audio": base64.b64encode(pcm16(two)).decode(),
            }
            await socket.send(json.dumps(append))
            while (event := json.loads(await socket.recv()))["type"] != COMPLETED:
                assert event["type"] != "error"
            answers.append(event)
        return answers

    *errors, last = asyncio.run(run())
    assert [e["type"] for e in errors] == ["error"] * len(errors)
    assert [e["error"]["param"] for e in errors[: len(BAD)]] == [field for _, field in BAD]
    assert {e["error"]["type"] for e in errors} == {"invalid_request_error"}
    assert last["transcript"] == texts[0]


def test_the_beta_form_of_the_session_is_understood(server: Server, two: np.ndarray) -> None:
    async def run() -> dict[str, Any]:
        url = server.url.replace("http", "ws") + "/v1/realtime?intent=transcription"
        async with websockets.connect(url, subprotocols=["realtime"]) as socket:
            assert socket.subprotocol == "realtime"
            await socket.recv()
            update = {
                "input_audio_format": "g711_ulaw",
                "input_audio_transcription": {"model": "qwen3-asr", "prompt": "x"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 700},
            }
            await socket.send(
                json.dumps({"type": "transcription_session.update", "session": update})
            )
            return json.loads(await socket.recv())

    answer = asyncio.run(run())
    assert answer["type"] == "transcription_session.updated"
    given = answer["session"]["audio"]["input"]
    assert given["format"] == {"type": "audio/pcmu"}
    assert given["turn_detection"]["silence_duration_ms"] == 700


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


def test_metrics_tell_of_sessions_steps_and_tokens(server: Server, plain: list[Any]) -> None:
    assert plain
    assert server.metric("qwen3_asr_live_step_seconds_count", kind="partial") > 4
    assert server.metric("qwen3_asr_live_step_seconds_count", kind="final") >= 1
    heard = server.metric("qwen3_asr_live_tokens_total", kind="heard")
    decoded = server.metric("qwen3_asr_live_tokens_total", kind="decoded")
    assert heard > decoded > 0
    assert server.metric("qwen3_asr_live_tokens_total", kind="accepted") > 0
    assert server.metric("qwen3_asr_live_taken_back_total") == 0


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


def test_a_model_that_is_not_served_is_an_error(server: Server) -> None:
    asked: Any = {"transcription": {"model": "gpt-x"}}

    async def run() -> None:
        async with client(server.url) as openai:
            await openai.realtime.client_secrets.create(session=session(**asked))

    with pytest.raises(NotFoundError):
        asyncio.run(run())
