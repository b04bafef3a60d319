"""Word times in live items, from the embedded aligner, against the evaluation set's own times."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
import websockets

from tests.api.conftest import Server
from tests.live.server import TRANSCRIPTION, append, client, pcm16, until
from tests.live.streams import Stream, join

SILENCE = np.zeros(16_000, np.float32)


@pytest.fixture(scope="module")
def two() -> Stream:
    """An English and a Chinese sentence, whose words' ends are known."""
    return join("two", ["en-short-003", "zh-short-002"], 1)


def letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


async def _plain(server: Server, two: Stream, query: str = "") -> list[dict[str, Any]]:
    url = server.url.replace("http", "ws") + "/api/v1/live" + query
    async with websockets.connect(url, max_size=None) as socket:
        await socket.send(pcm16(np.concatenate([two.samples, SILENCE]), 16_000))
        await socket.send('{"type": "end"}')
        return [json.loads(line) async for line in socket]


@pytest.mark.parametrize("query", ["", "?turns=manual"])
def test_words_of_completed_items_have_times(server: Server, two: Stream, query: str) -> None:
    lines = asyncio.run(_plain(server, two, query))
    items = [line for line in lines if line["type"] == "completed"]
    assert "".join(word["text"] for item in items for word in item["words"]).split() == (
        "".join(item["text"] for item in items).split()
    )
    timed = [w for item in items for w in item["words"] if letters(w["text"])]
    assert [letters(w["text"]) for w in timed] == [letters(w.word) for w in two.words]
    errors = [abs(w["end_s"] - known.end_s) for w, known in zip(timed, two.words, strict=True)]
    assert np.median(errors) < 0.1
    starts = [word["start_s"] for word in timed]
    assert starts == sorted(starts)
    assert all("start_s" not in w for x in lines if x["type"] == "partial" for w in x["words"])


def test_the_sdk_sees_them_in_seconds_of_the_session(server: Server, two: Stream) -> None:
    async def run() -> list[Any]:
        async with client(server.url).realtime.connect() as connection:
            await append(connection, pcm16(np.concatenate([two.samples, SILENCE])))
            return await until(connection, f"{TRANSCRIPTION}.completed", 2)

    first, second = [e for e in asyncio.run(run()) if e.type == f"{TRANSCRIPTION}.completed"]
    assert 0 <= first.words[0]["start"] < first.words[-1]["end"] <= first.audio_end_ms / 1000
    assert first.words[-1]["end"] < second.words[0]["start"]
