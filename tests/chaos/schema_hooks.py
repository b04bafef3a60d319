"""What schemathesis cannot guess: recordings, languages, contexts. Its command line loads this."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import wave
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis.core.parameters import ParameterLocation

FORM = "multipart/form-data"
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
    """Forms are sent as text: a number where a text is meant arrives as a text, an empty list not
    at all. A form that breaks the schema only until it is sent is no case."""
    meta = case.meta
    if case.media_type != FORM or meta is None or not isinstance(case.body, dict):
        return True
    wrong = {where for where, part in meta.components.items() if part.mode.is_negative}
    operation = case.operation
    path = operation.schema.raw_schema["paths"][operation.path]
    schema = path[operation.method.lower()]["requestBody"]["content"][FORM]["schema"]
    return wrong != {ParameterLocation.BODY} or not _is_valid_as_sent(case.body, schema)


def _is_valid_as_sent(form: dict[str, Any], schema: dict[str, Any]) -> bool:
    sent = {name: value for name, value in form.items() if value != []}
    known = schema["properties"]
    if set(schema["required"]) - set(sent) or set(sent) - set(known):
        return False
    return all(_fits(value, known[name]) for name, value in sent.items())


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if schema.get("type") == "array":
        items = value if isinstance(value, list) else [value]
        return all(_fits(item, schema["items"]) for item in items)
    if schema.get("format") == "binary":
        return not isinstance(value, list)
    if isinstance(value, list):
        return len(value) == 1 and _fits(value[0], schema)
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    meant = [text]
    with contextlib.suppress(ValueError):
        meant.append(json.loads(text))
    return any(Draft202012Validator(schema).is_valid(each) for each in meant)
