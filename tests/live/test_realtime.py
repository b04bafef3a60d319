"""`/v1/realtime` as OpenAI's own Python SDK speaks it, against a running server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import av
import numpy as np
import pytest
import websockets
from openai import NotFoundError

from tests.api.conftest import Server
from tests.live.server import (
    COMPLETED,
    TRANSCRIPTION,
    append,
    client,
    deltas,
    hear,
    pcm16,
    session,
    transcripts,
    until,
)
from tests.live.streams import alone


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
    other = asyncio.run(hear(server, pcm16(two), 2, piece_bytes=piece_bytes))
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
    events = asyncio.run(hear(server, data, 2, format={"type": kind}))
    assert "Tuesday" in transcripts(events)[0]


def test_log_probabilities_are_included_when_asked_for(
    server: Server, two: np.ndarray, plain: list[Any]
) -> None:
    include = ["item.input_audio_transcription.logprobs"]
    events = asyncio.run(hear(server, pcm16(two), 1, include=include))
    [completed] = [e for e in events if e.type == COMPLETED]
    assert bytes(b for p in completed.logprobs for b in p.bytes).decode() == completed.transcript
    assert all(p.logprob <= 0 for p in completed.logprobs)
    assert next(e for e in plain if e.type == COMPLETED).logprobs is None


def test_it_is_served_under_openai_as_well(
    server: Server, two: np.ndarray, texts: list[str]
) -> None:
    assert transcripts(asyncio.run(hear(server, pcm16(two), 2, prefix="/openai/v1"))) == texts


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


def test_metrics_tell_of_sessions_steps_and_tokens(server: Server, plain: list[Any]) -> None:
    assert plain
    assert server.metric("qwen3_asr_live_step_seconds_count", kind="partial") > 4
    assert server.metric("qwen3_asr_live_step_seconds_count", kind="final") >= 1
    heard = server.metric("qwen3_asr_live_tokens_total", kind="heard")
    decoded = server.metric("qwen3_asr_live_tokens_total", kind="decoded")
    assert heard > decoded > 0
    assert server.metric("qwen3_asr_live_tokens_total", kind="accepted") > 0
    assert server.metric("qwen3_asr_live_taken_back_total") == 0


def test_a_model_that_is_not_served_is_an_error(server: Server) -> None:
    asked: Any = {"transcription": {"model": "gpt-x"}}

    async def run() -> None:
        async with client(server.url) as openai:
            await openai.realtime.client_secrets.create(session=session(**asked))

    with pytest.raises(NotFoundError):
        asyncio.run(run())
