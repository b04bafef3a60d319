"""What schemathesis cannot guess: recordings, languages, contexts. Its command line loads this."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st

SAID = "Remind me to call my sister at 7:30."
SPEECH = (Path(__file__).parents[2] / "predictor" / "recordings" / "demo-en-1.flac").read_bytes()


def recording_of(num_samples: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * num_samples))
    return buffer.getvalue()


_recordings = st.integers(800, 8000).map(recording_of)
schemathesis.openapi.format("binary", _recordings)
schemathesis.openapi.format("byte", _recordings.map(lambda data: base64.b64encode(data).decode()))
schemathesis.openapi.format("language", st.sampled_from(["en", "zh-HK", "Français", "auto"]))
schemathesis.openapi.format("model", st.just("qwen3-asr"))
schemathesis.openapi.format("said", st.just(SAID))
for media_type in ("audio/*", "video/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, _recordings)


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Of a form an empty list is not sent at all, so what is wrong with it does not arrive."""
    is_form = case.media_type == "multipart/form-data" and isinstance(case.body, dict)
    return not (is_form and any(value == [] for value in case.body.values()))
