"""What a client of `/v1/realtime` may send that is wrong: it is answered, and not fatal."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import numpy as np
import websockets

from tests.api.conftest import Server
from tests.live.server import COMPLETED, pcm16

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
