"""Asks a server for short recordings, several at once, and for a long one as it is transcribed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

MODEL = "qwen3-asr"
AT_ONCE = 8  # as many pieces of one recording as the server works on


def ask(url: str, data: bytes, **fields: str) -> str:
    """The text of a short recording."""
    answer = httpx.post(
        f"{url}/v1/audio/transcriptions",
        files={"file": data},
        data={"model": MODEL, **fields},
        timeout=600,
    )
    answer.raise_for_status()
    text: str = answer.json()["text"]
    return text


def ask_all(url: str, recordings: Sequence[bytes], **fields: str) -> tuple[list[str], float]:
    """Texts of many, so many at once, and how long it took."""
    began_s = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        texts = list(pool.map(lambda data: ask(url, data, **fields), recordings))
    return texts, time.monotonic() - began_s


def follow(url: str, data: Any, kind: str, seen: Callable[[float], None]) -> dict[str, Any]:
    """One long recording with stream=true: its text, and when the first segment came.

    `seen` is told of the end of each segment, in seconds of the recording.
    """
    began_s, first_s, text, count = time.monotonic(), None, "", 0
    with httpx.stream(
        "POST",
        f"{url}/v1/audio/transcriptions",
        files={"file": ("recording", data, kind)},
        data={"model": MODEL, "stream": "true"},
        timeout=httpx.Timeout(60, read=3600),
    ) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event["type"] == "transcript.text.segment":
                count += 1
                first_s = first_s or time.monotonic() - began_s
                seen(event["end"])
            elif event["type"] == "transcript.text.done":
                text = event["text"]
            elif event["type"] == "error":
                raise RuntimeError(str(event))
    return {
        "text": text,
        "segments": count,
        "first_segment_s": round(first_s or 0.0, 2),
        "wall_s": round(time.monotonic() - began_s, 1),
    }
